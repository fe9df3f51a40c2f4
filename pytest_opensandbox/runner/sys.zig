//! System calls, without a C library: the few that the runner needs, with errors as Linux numbers.

const std = @import("std");
const linux = std.os.linux;

pub const Pid = linux.pid_t;
pub const Fd = linux.fd_t;

/// A failed call: the error's number, as in errno(3).
pub const Failure = struct { errno: u16 };

pub const enoent = 2;
pub const eintr = 4;
pub const e2big = 7;
pub const enoexec = 8;
pub const eagain = 11;
pub const enomem = 12;
pub const eacces = 13;
pub const enotdir = 20;
pub const einval = 22;
pub const eaddrinuse = 98;
pub const enospc = 28;
pub const epipe = 32;
pub const etimedout = 110;
pub const edquot = 122;

/// Return the number of the error that a call returned, 0 for success.
pub fn errnoOf(result: usize) u16 {
    const signed: isize = @bitCast(result);
    return if (signed < 0 and signed > -4096) @intCast(-signed) else 0;
}

/// Return the result of a call that may fail, null for a failure.
pub fn ok(result: usize) ?usize {
    return if (errnoOf(result) == 0) result else null;
}

/// End this process.
pub fn exit(code: u8) noreturn {
    linux.exit_group(code);
}

/// Return new memory, zeroed, of which only touched pages count; ends the process with 95 where there is none.
pub fn allocate(comptime T: type, count: usize) []T {
    const bytes = @max(count * @sizeOf(T), 1);
    const protection = 1 | 2; // read, write
    const flags = 0x2 | 0x20 | 0x4000; // private, anonymous, no reserve
    const no_file: usize = @bitCast(@as(isize, -1));
    const address = ok(linux.syscall6(.mmap, 0, bytes, protection, flags, no_file, 0)) orelse exit(no_memory_code);
    return @as([*]T, @ptrFromInt(address))[0..count];
}

/// Give memory back.
pub fn release(address: [*]u8, bytes: usize) void {
    _ = linux.syscall2(.munmap, @intFromPtr(address), bytes);
}

/// Exit code of a runner that got no memory.
pub const no_memory_code = 95;

/// Return a copy with a NUL behind it.
pub fn terminated(text: []const u8) [:0]u8 {
    const copy = allocate(u8, text.len + 1);
    @memcpy(copy[0..text.len], text);
    return copy[0..text.len :0];
}

/// Return what a C string holds.
pub fn span(text: [*:0]const u8) [:0]const u8 {
    return std.mem.span(text);
}

/// Microseconds of a clock that no one sets.
pub fn now() i64 {
    var time: linux.timespec = undefined;
    _ = linux.clock_gettime(.MONOTONIC, &time);
    return @as(i64, time.sec) * 1_000_000 + @divTrunc(@as(i64, time.nsec), 1000);
}

/// Sleep, or return early at a signal.
pub fn sleepMs(milliseconds: i32) void {
    var none: [0]linux.pollfd = .{};
    _ = linux.poll(&none, 0, milliseconds);
}

pub const read_only = 0;
pub const write_only = 1;
pub const read_write = 2;
pub const create_new = 0o100 | 0o200 | noFollow; // O_CREAT, O_EXCL
pub const append = 0o2000;
pub const nonblocking = 0o4000;
pub const no_terminal = 0o400;
pub const close_on_exec = 0o2000000;
const noFollow: usize = if (@import("builtin").cpu.arch == .aarch64) 0o100000 else 0o400000;
const here: usize = @bitCast(@as(isize, -100)); // AT_FDCWD

/// Open a file; null where that fails.
pub fn open(path: [*:0]const u8, flags: usize, mode: usize) ?Fd {
    const result = ok(linux.syscall4(.openat, here, @intFromPtr(path), flags | close_on_exec, mode));
    return if (result) |fd| @intCast(fd) else null;
}

pub fn close(fd: Fd) void {
    _ = linux.close(fd);
}

/// Open whatever of the three standard streams is closed, so that no other descriptor gets its number.
pub fn openStandardStreams() void {
    while (open("/dev/null", 2, 0)) |fd| {
        if (fd > 2) return close(fd);
    }
}

/// Read what is there; 0 at the end. Returns null where nothing is there yet, or at an error other than the end.
pub fn read(fd: Fd, into: []u8) ?usize {
    while (true) {
        const result = linux.read(fd, into.ptr, into.len);
        if (errnoOf(result) == eintr) continue;
        return ok(result);
    }
}

/// Write all; return the error's number, 0 for success.
pub fn writeAll(fd: Fd, data: []const u8) u16 {
    var done: usize = 0;
    while (done < data.len) {
        const result = linux.write(fd, data.ptr + done, data.len - done);
        const errno = errnoOf(result);
        if (errno == eintr) continue;
        if (errno != 0) return errno;
        done += result;
    }
    return 0;
}

/// Read a whole file of at most `most` bytes; null where it cannot be read. Of a longer one the beginning.
pub fn readFile(path: [*:0]const u8, most: usize) ?[]u8 {
    const fd = open(path, read_only, 0) orelse return null;
    defer close(fd);
    const content = allocate(u8, most);
    var length: usize = 0;
    while (length < most) {
        const count = read(fd, content[length..]) orelse return null;
        if (count == 0) break;
        length += count;
    }
    return content[0..length];
}

/// A pair of descriptors, closed at exec: what is written to the second is read from the first.
pub fn pipe() ?[2]Fd {
    var ends: [2]Fd = undefined;
    return if (ok(linux.syscall2(.pipe2, @intFromPtr(&ends), close_on_exec)) != null) ends else null;
}

/// Make reads and writes of a descriptor return at once.
pub fn setNonblocking(fd: Fd) void {
    _ = linux.syscall3(.fcntl, fdArgument(fd), 4, nonblocking); // F_SETFL
}

pub fn duplicate(fd: Fd, to: Fd) void {
    _ = linux.syscall3(.dup3, fdArgument(fd), fdArgument(to), 0);
}

/// Have exec close every descriptor from this number on.
pub fn closeAtExec(first: Fd) void {
    _ = linux.syscall3(.close_range, fdArgument(first), std.math.maxInt(u32), 4);
}

pub fn fdArgument(fd: Fd) usize {
    return @bitCast(@as(isize, fd));
}

pub const Signal = u7;
pub const sighup: Signal = 1;
pub const sigint: Signal = 2;
pub const sigkill: Signal = 9;
pub const sigpipe: Signal = 13;
pub const sigterm: Signal = 15;
pub const sigchld: Signal = 17;
pub const sigstop: Signal = 19;
pub const sigxfsz: Signal = 25;

/// Return a mask for signals.
pub fn maskOf(signals: []const Signal) u64 {
    var mask: u64 = 0;
    for (signals) |signal| mask |= @as(u64, 1) << @intCast(signal - 1);
    return mask;
}

/// Block exactly these signals.
pub fn setMask(mask: u64) void {
    _ = linux.syscall4(.rt_sigprocmask, 2, @intFromPtr(&mask), 0, 8); // SIG_SETMASK
}

/// Return a descriptor from which blocked signals are read.
pub fn signalFd(mask: u64) ?Fd {
    const new: usize = @bitCast(@as(isize, -1));
    const result = ok(linux.syscall4(.signalfd4, new, @intFromPtr(&mask), 8, close_on_exec | nonblocking));
    return if (result) |fd| @intCast(fd) else null;
}

/// Return the next signal of such a descriptor, null when there is none.
pub fn nextSignal(fd: Fd) ?u32 {
    var info: [128]u8 align(8) = undefined;
    const count = read(fd, &info) orelse return null;
    return if (count == info.len) std.mem.readInt(u32, info[0..4], .little) else null;
}

/// Give every signal its default effect.
pub fn resetSignals() void {
    const default: [4]u64 = @splat(0);
    var signal: usize = 1;
    while (signal <= 64) : (signal += 1) {
        _ = linux.syscall4(.rt_sigaction, signal, @intFromPtr(&default), 0, 8);
    }
}

/// Send a signal; return the error's number, 0 for success.
pub fn kill(pid: Pid, signal: Signal) u16 {
    return errnoOf(linux.syscall2(.kill, fdArgument(pid), signal));
}

/// Return the child's number to the parent, and 0 to the child; null where there can be no new process.
pub fn fork() ?Pid {
    const result = ok(linux.fork()) orelse return null;
    return @intCast(result);
}

/// One child that has ended, and its wait status; null where none has.
pub const Ended = struct { pid: Pid, status: u32 };

pub fn reap() ?Ended {
    var status: u32 = 0;
    const any: usize = @bitCast(@as(isize, -1));
    const result = ok(linux.syscall4(.wait4, any, @intFromPtr(&status), 1, 0)) orelse return null; // WNOHANG
    return if (result == 0) null else .{ .pid = @intCast(result), .status = status };
}

pub const set_death_signal = 1; // PR_SET_PDEATHSIG
pub const set_subreaper = 36; // PR_SET_CHILD_SUBREAPER

pub fn prctl(option: usize, value: usize) void {
    _ = linux.syscall5(.prctl, option, value, 0, 0, 0);
}

/// Wait until a descriptor is ready, for at most so many milliseconds; -1 for no limit.
pub fn poll(entries: []linux.pollfd, milliseconds: i32) void {
    _ = linux.poll(entries.ptr, @intCast(entries.len), milliseconds);
}

pub const Poll = linux.pollfd;
pub const poll_in = 1;
pub const poll_out = 4;
/// What poll(2) reports without being asked: an error, a closed peer.
pub const poll_ended = 8 | 16;

/// A new socket; null where there is none.
pub fn socket(family: u32, kind: u32) ?Fd {
    const result = ok(linux.syscall3(.socket, family, kind | close_on_exec, 0));
    return if (result) |fd| @intCast(fd) else null;
}

/// Take a connection that waits; null where none does.
pub fn acceptConnection(listener: Fd) ?Fd {
    const result = ok(linux.syscall4(.accept4, fdArgument(listener), 0, 0, close_on_exec));
    return if (result) |fd| @intCast(fd) else null;
}

/// Have the close of a TCP connection reset it.
pub fn resetAtClose(fd: Fd) void {
    const linger = [_]u32{ 1, 0 };
    _ = linux.setsockopt(fd, 1, 13, @ptrCast(&linger), 8); // SOL_SOCKET, SO_LINGER
}
