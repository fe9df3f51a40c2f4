//! Runs one command: starts it, reads both of its streams, ends what belongs to it in time, and reports how it ended.

const std = @import("std");
const sys = @import("sys.zig");
const processes = @import("processes.zig");
const program = @import("program.zig");
const OutputFile = @import("output_file.zig").OutputFile;
const Request = @import("request.zig").Request;
const Report = @import("report.zig").Report;

const read_bytes = 48 * 1024;
/// How much of each stream is reported in lines, before the rest goes to a file.
const line_bytes = 2 * read_bytes;
/// How long an interrupted command may take to end by itself; the agent kills the runner after 3 s.
const interrupt_us = 2_000_000;
/// How long output is read after everything that could be found was killed.
const drain_us = 1_000_000;
const never = std.math.maxInt(i64);
const interrupts = sys.maskOf(&.{ sys.sigterm, sys.sigint, sys.sighup });

/// Run the command of a request, report, and end this process.
pub fn run(request: *const Request, environ: [*:null]?[*:0]u8, report: *Report) noreturn {
    sys.setMask(sys.maskOf(&.{ sys.sigchld, sys.sigpipe, sys.sigxfsz }) | interrupts);
    processes.adoptOrphans();
    program.makeDefaultDirectory(request);
    const signals = sys.signalFd(sys.maskOf(&.{sys.sigchld}) | interrupts) orelse failed(report, "memory", sys.enomem);
    const started = sys.now();
    const child = start(request, environ, report);
    if (request.is_live) report.write("start {d} {d}", .{ child.pid, std.os.linux.getpid() });
    var command = Command{
        .request = request,
        .report = report,
        .signals = signals,
        .pid = child.pid,
        .out = Stream.init("out", child.out, request),
        .err = Stream.init("err", child.err, request),
        .input = Input{ .fd = child.in, .rest = request.input orelse "" },
        .kill_at = if (request.limit_ms) |limit| started + @as(i64, limit) * 1000 else never,
    };
    command.follow();
    for ([_]*Stream{ &command.out, &command.err }) |stream| {
        stream.reportTail(report);
        stream.file.finish(stream.word, report);
    }
    report.write("end {d} {d} {d} {d} {d}", .{
        command.status orelse sys.sigkill,
        @intFromBool(command.has_timed_out),
        command.out.total,
        command.err.total,
        sys.now() - started,
    });
    report.finish();
}

fn failed(report: *Report, stage: []const u8, errno: u16) noreturn {
    report.write("fail {s} {d}", .{ stage, errno });
    report.finish();
}

/// A process that has begun, and this end of its pipes.
const Child = struct { pid: sys.Pid, in: ?sys.Fd, out: sys.Fd, err: sys.Fd };

fn start(request: *const Request, environ: [*:null]?[*:0]u8, report: *Report) Child {
    const no_memory = sys.enomem;
    const in = if (request.input != null) sys.pipe() orelse failed(report, "memory", no_memory) else null;
    const out = sys.pipe() orelse failed(report, "memory", no_memory);
    const err = sys.pipe() orelse failed(report, "memory", no_memory);
    const failure = sys.pipe() orelse failed(report, "memory", no_memory);
    const runner = std.os.linux.getpid();
    const pid = sys.fork() orelse failed(report, "fork", sys.eagain);
    if (pid == 0) {
        becomeCommand(request, environ, runner, .{ .in = if (in) |ends| ends[0] else null, .out = out[1], .err = err[1] }, failure[1]);
    }
    _ = std.os.linux.setpgid(pid, pid);
    if (in) |ends| {
        sys.close(ends[0]);
        sys.setNonblocking(ends[1]);
    }
    for ([_]sys.Fd{ out[1], err[1], failure[1] }) |fd| sys.close(fd);
    var why: [3]u8 = undefined;
    if ((sys.read(failure[0], &why) orelse 0) == why.len) {
        const stage: program.Stage = @fromBackingInt(@intCast(why[0]));
        failed(report, @tagName(stage), std.mem.readInt(u16, why[1..3], .little));
    }
    sys.close(failure[0]);
    return .{ .pid = pid, .in = if (in) |ends| ends[1] else null, .out = out[0], .err = err[0] };
}

const Streams = struct { in: ?sys.Fd, out: sys.Fd, err: sys.Fd };

/// Become the command in the new process; a failure is written to `failure`, which exec closes.
fn becomeCommand(request: *const Request, environ: [*:null]?[*:0]u8, runner: sys.Pid, streams: Streams, failure: sys.Fd) noreturn {
    _ = std.os.linux.setpgid(0, 0);
    sys.duplicate(streams.in orelse sys.open("/dev/null", sys.read_only, 0) orelse streams.out, 0);
    sys.duplicate(streams.out, 1);
    sys.duplicate(streams.err, 2);
    sys.closeAtExec(3);
    const why = program.become(request, environ, runner);
    var bytes: [3]u8 = undefined;
    bytes[0] = @backingInt(why.stage);
    std.mem.writeInt(u16, bytes[1..3], why.errno, .little);
    _ = sys.writeAll(failure, &bytes);
    sys.exit(127);
}

/// Standard input of the command, written as fast as the command reads it.
const Input = struct {
    fd: ?sys.Fd,
    rest: []const u8,

    fn write(self: *Input) void {
        const fd = self.fd orelse return;
        const result = std.os.linux.write(fd, self.rest.ptr, self.rest.len);
        switch (sys.errnoOf(result)) {
            0 => self.rest = self.rest[result..],
            sys.eagain, sys.eintr => return,
            else => self.rest = "",
        }
        if (self.rest.len > 0) return;
        sys.close(fd);
        self.fd = null;
    }
};

/// One stream of the command. Its beginning is passed on as it comes; of the rest, the last part is kept.
const Stream = struct {
    word: []const u8,
    fd: ?sys.Fd,
    file: OutputFile,
    total: usize = 0,
    /// How much was passed on in lines.
    in_lines: usize = 0,
    head_bytes: usize,
    tail: []u8,
    piece: []u8,

    fn init(word: []const u8, fd: sys.Fd, request: *const Request) Stream {
        sys.setNonblocking(fd);
        const tail_bytes = if (request.is_live) 0 else request.most_kept / 2;
        return .{
            .word = word,
            .fd = fd,
            .file = OutputFile.init(request.output_path, word),
            .head_bytes = if (request.is_live) std.math.maxInt(usize) else request.most_kept - tail_bytes,
            .tail = sys.allocate(u8, tail_bytes),
            .piece = sys.allocate(u8, read_bytes),
        };
    }

    /// Read what is there, and close the stream at its end.
    fn read(self: *Stream, report: *Report) void {
        const fd = self.fd orelse return;
        const result = std.os.linux.read(fd, self.piece.ptr, self.piece.len);
        switch (sys.errnoOf(result)) {
            0 => if (result > 0) return self.take(self.piece[0..result], report),
            sys.eagain, sys.eintr => return,
            else => {},
        }
        sys.close(fd);
        self.fd = null;
    }

    fn take(self: *Stream, content: []const u8, report: *Report) void {
        const first = content[0..@min(content.len, self.head_bytes -| self.total)];
        self.pass(first, report);
        self.total += first.len;
        var rest = content[first.len..];
        while (rest.len > 0 and self.tail.len > 0) {
            const position = (self.total - self.head_bytes) % self.tail.len;
            const count = @min(rest.len, self.tail.len - position);
            @memcpy(self.tail[position..][0..count], rest[0..count]);
            self.total += count;
            rest = rest[count..];
        }
        self.total += rest.len;
    }

    /// Report the last part.
    fn reportTail(self: *Stream, report: *Report) void {
        const kept = self.total -| self.head_bytes;
        if (kept <= self.tail.len) return self.pass(self.tail[0..kept], report);
        if (self.tail.len == 0) return;
        const position = kept % self.tail.len;
        self.pass(self.tail[position..], report);
        self.pass(self.tail[0..position], report);
    }

    /// Pass bytes on: the first ones in lines, the rest by the file, and in lines again where that takes no more.
    fn pass(self: *Stream, content: []const u8, report: *Report) void {
        const first = content[0..@min(content.len, line_bytes -| self.in_lines)];
        report.writeStream(self.word, first);
        self.in_lines += first.len;
        if (first.len == content.len) return;
        const rest = self.file.take(content[first.len..]);
        if (rest.len == 0) return;
        self.file.finish(self.word, report);
        report.writeStream(self.word, rest);
    }
};

/// A command that runs.
const Command = struct {
    request: *const Request,
    report: *Report,
    signals: sys.Fd,
    pid: sys.Pid,
    out: Stream,
    err: Stream,
    input: Input,
    /// When everything that belongs to it is killed; microseconds, `never` for no limit.
    kill_at: i64,
    /// When its streams are given up after that.
    give_up_at: i64 = never,
    status: ?u32 = null,
    has_timed_out: bool = false,
    is_interrupted: bool = false,

    /// Return when the command and both streams have ended; a process that holds a stream open is waited for.
    fn follow(self: *Command) void {
        while (self.status == null or self.out.fd != null or self.err.fd != null) {
            self.waitForSomething();
            while (sys.nextSignal(self.signals)) |signal| {
                if (signal != sys.sigchld) self.interrupt();
            }
            self.reapAll();
            self.out.read(self.report);
            self.err.read(self.report);
            self.input.write();
            const now = sys.now();
            if (now >= self.kill_at) self.endAll(now);
            if (now >= self.give_up_at) return;
        }
    }

    fn waitForSomething(self: *Command) void {
        const none: sys.Fd = -1; // poll(2) skips it
        var entries = [_]sys.Poll{
            .{ .fd = self.signals, .events = sys.poll_in, .revents = 0 },
            .{ .fd = self.out.fd orelse none, .events = sys.poll_in, .revents = 0 },
            .{ .fd = self.err.fd orelse none, .events = sys.poll_in, .revents = 0 },
            .{ .fd = self.input.fd orelse none, .events = sys.poll_out, .revents = 0 },
        };
        const until = @min(self.kill_at, self.give_up_at);
        const left = if (until == never) -1 else std.math.clamp(@divTrunc(until - sys.now() + 999, 1000), 0, 60_000);
        sys.poll(&entries, @intCast(left));
    }

    pub fn reapAll(self: *Command) void {
        while (sys.reap()) |ended| {
            if (ended.pid != self.pid) continue;
            self.status = ended.status;
            // A process in the background may hold the streams for long.
            if (self.request.is_live) self.report.write("exit {d}", .{ended.status});
        }
    }

    /// Ask the command to end, because the agent asks for that, and kill it soon.
    fn interrupt(self: *Command) void {
        if (self.is_interrupted) return;
        self.is_interrupted = true;
        self.kill_at = @min(self.kill_at, sys.now() + interrupt_us);
        _ = sys.kill(-self.pid, sys.sigterm);
        _ = processes.signalDescendants(sys.sigterm, .alive);
    }

    /// Kill everything that belongs to the command, until nothing of it is found.
    fn endAll(self: *Command, now: i64) void {
        self.has_timed_out = !self.is_interrupted;
        self.kill_at = never;
        self.give_up_at = now + drain_us;
        if (self.status == null) _ = sys.kill(-self.pid, sys.sigkill);
        processes.killDescendants(self);
    }
};
