//! A command with a terminal of its own, which a WebSocket connection carries.

const std = @import("std");
const linux = std.os.linux;
const sys = @import("sys.zig");
const program = @import("program.zig");
const relay = @import("relay.zig");
const requests = @import("request.zig");
const websocket = @import("websocket.zig");
const Request = requests.Request;

const set_controlling_terminal = 0x540e; // TIOCSCTTY
const set_size = 0x5414; // TIOCSWINSZ
const set_lock = 0x40045431; // TIOCSPTLCK
const get_number = 0x80045430; // TIOCGPTN

/// Serve a terminal: the first message is the request. Ends this process.
pub fn serve(connection: *websocket.Connection, environ: [*:null]?[*:0]u8) noreturn {
    const request = readRequest(connection) orelse fail(connection, "request", sys.einval);
    const master = sys.open("/dev/ptmx", 2 | sys.no_terminal, 0) orelse fail(connection, "terminal", sys.enoent);
    const slave = openSlave(master) orelse fail(connection, "terminal", sys.enoent);
    resize(master, request.rows, request.columns);
    sys.setMask(sys.maskOf(&.{ sys.sigpipe, sys.sigchld }));
    const signals = sys.signalFd(sys.maskOf(&.{sys.sigchld})) orelse fail(connection, "memory", sys.enomem);
    const own = linux.getpid();
    const pid = sys.fork() orelse fail(connection, "fork", sys.eagain);
    if (pid == 0) becomeCommand(&request, environ, slave, own);
    sys.close(slave);
    var both = relay.Relay.init(connection, master);
    both.ended_fd = signals;
    both.on_text = takeText;
    const end = both.run();
    // The end of the terminal is a SIGHUP for what still runs in it.
    sys.close(master);
    const status = waitFor(pid);
    if (end == .finished) sendStatus(connection, status);
    sys.exit(0);
}

fn fail(connection: *websocket.Connection, stage: []const u8, errno: u16) noreturn {
    var text: [64]u8 = undefined;
    connection.send(.text, std.fmt.bufPrint(&text, "fail {s} {d}", .{ stage, errno }) catch "");
    relay.sendEnd(connection);
    sys.exit(0);
}

/// Read the first message, which is one request.
fn readRequest(connection: *websocket.Connection) ?Request {
    const content = sys.allocate(u8, websocket.most_payload);
    var length: usize = 0;
    while (true) {
        while (connection.next()) |event| {
            const bytes = if (event == .bytes) event.bytes else return null;
            if (length + bytes.len > content.len) return null;
            @memcpy(content[length..][0..bytes.len], bytes);
            length += bytes.len;
            if (connection.left == 0 and !connection.is_in_message) return requests.parse(content[0..length]);
        }
        var entries = [_]sys.Poll{.{ .fd = connection.fd, .events = sys.poll_in, .revents = 0 }};
        sys.poll(&entries, 10_000);
        if (entries[0].revents == 0 or !connection.receive()) return null;
    }
}

fn openSlave(master: sys.Fd) ?sys.Fd {
    var number: u32 = 0;
    const unlocked: u32 = 0;
    if (sys.ok(linux.ioctl(master, set_lock, @intFromPtr(&unlocked))) == null) return null;
    if (sys.ok(linux.ioctl(master, get_number, @intFromPtr(&number))) == null) return null;
    var path: [32]u8 = undefined;
    const name = std.fmt.bufPrintSentinel(&path, "/dev/pts/{d}", .{number}, 0) catch return null;
    return sys.open(name, 2 | sys.no_terminal, 0);
}

fn resize(master: sys.Fd, rows: u16, columns: u16) void {
    const size = [_]u16{ rows, columns, 0, 0 };
    _ = linux.ioctl(master, set_size, @intFromPtr(&size));
}

/// Take `size ROWS COLUMNS`; the kernel signals the change to the command.
fn takeText(master: sys.Fd, text: []const u8) void {
    var words = std.mem.tokenizeScalar(u8, text, ' ');
    if (!std.mem.eql(u8, words.next() orelse return, "size")) return;
    const rows = std.fmt.parseUnsigned(u16, words.next() orelse return, 10) catch return;
    const columns = std.fmt.parseUnsigned(u16, words.next() orelse return, 10) catch return;
    resize(master, rows, columns);
}

/// Become the command, in a session of its own whose terminal is the slave.
fn becomeCommand(request: *const Request, environ: [*:null]?[*:0]u8, slave: sys.Fd, parent: sys.Pid) noreturn {
    _ = linux.setsid();
    _ = linux.ioctl(slave, set_controlling_terminal, 0);
    for ([_]sys.Fd{ 0, 1, 2 }) |fd| sys.duplicate(slave, fd);
    sys.closeAtExec(3);
    const why = program.become(request, environ, parent);
    var text: [64]u8 = undefined;
    _ = sys.writeAll(2, std.fmt.bufPrint(&text, "cannot start: {s}, error {d}\n", .{ @tagName(why.stage), why.errno }) catch "");
    sys.exit(127);
}

/// Wait for the end of the command; one that ignores the end of its terminal is killed.
fn waitFor(pid: sys.Pid) u32 {
    const until = sys.now() + 2_000_000;
    while (true) {
        while (sys.reap()) |ended| {
            if (ended.pid == pid) return ended.status;
        }
        if (sys.now() > until) _ = sys.kill(-pid, sys.sigkill);
        sys.sleepMs(5);
    }
}

fn sendStatus(connection: *websocket.Connection, status: u32) void {
    var text: [32]u8 = undefined;
    connection.send(.text, std.fmt.bufPrint(&text, "end {d}", .{status}) catch return);
    relay.sendEnd(connection);
}
