//! The bridge: a WebSocket server on loopback that carries TCP connections and terminals, a process a connection.
//!
//! The agent and the servers before it carry HTTP and WebSocket only. The nonce of the request is the secret that a
//! path must begin with. docs/connections.md describes the protocol.

const std = @import("std");
const linux = std.os.linux;
const sys = @import("sys.zig");
const processes = @import("processes.zig");
const websocket = @import("websocket.zig");
const relay = @import("relay.zig");
const terminal = @import("terminal.zig");
const Request = @import("request.zig").Request;
const Report = @import("report.zig").Report;

const interrupts = sys.maskOf(&.{ sys.sigterm, sys.sigint, sys.sighup });
const backlog = 1024;
const stream = 1; // SOCK_STREAM
const ipv4 = 2; // AF_INET
const ipv6 = 10; // AF_INET6

/// What every connection is given.
const Context = struct { nonce: []const u8, environ: [*:null]?[*:0]u8, inner: ?sys.Fd };

/// Serve connections until a signal ends this process, and its children with it.
pub fn serve(request: *const Request, environ: [*:null]?[*:0]u8, report: *Report) noreturn {
    sys.setMask(sys.maskOf(&.{ sys.sigchld, sys.sigpipe }) | interrupts);
    processes.adoptOrphans();
    const signals = sys.signalFd(sys.maskOf(&.{sys.sigchld}) | interrupts) orelse failed(report, sys.enomem);
    const outer = listen(0) orelse failed(report, sys.enomem);
    const inner: ?sys.Fd = if (request.inner_port) |port| listen(port) orelse failed(report, sys.eaddrinuse) else null;
    report.write("bridge {d} {d} {d}", .{ portOf(outer), if (inner) |fd| portOf(fd) else 0, linux.getpid() });
    const context = Context{ .nonce = request.nonce, .environ = environ, .inner = inner };
    while (true) {
        var entries = [_]sys.Poll{
            .{ .fd = signals, .events = sys.poll_in, .revents = 0 },
            .{ .fd = outer, .events = sys.poll_in, .revents = 0 },
        };
        sys.poll(&entries, -1);
        while (sys.nextSignal(signals)) |signal| {
            if (signal == sys.sigchld) reapAll() else end();
        }
        if (entries[1].revents != 0) acceptOne(outer, &context);
    }
}

fn failed(report: *Report, errno: u16) noreturn {
    report.write("fail bridge {d}", .{errno});
    report.finish();
}

fn reapAll() void {
    while (sys.reap()) |_| {}
}

const Reaper = struct {
    pub fn reapAll(_: Reaper) void {
        while (sys.reap()) |_| {}
    }
};

fn end() noreturn {
    processes.killDescendants(Reaper{});
    sys.exit(0);
}

fn acceptOne(listener: sys.Fd, context: *const Context) void {
    const fd = sys.acceptConnection(listener) orelse return;
    const bridge = linux.getpid();
    const pid = sys.fork();
    if (pid == 0) {
        sys.prctl(sys.set_death_signal, sys.sigkill);
        if (linux.getppid() != bridge) sys.exit(0);
        sys.close(listener);
        sys.setMask(sys.maskOf(&.{sys.sigpipe}));
        handle(fd, context);
    }
    sys.close(fd);
}

/// Serve one connection, and end this process.
fn handle(fd: sys.Fd, context: *const Context) noreturn {
    const head = websocket.readHead(fd) orelse sys.exit(0);
    const place = placeOf(head.path, context.nonce) orelse refuse(fd, "404 Not Found", "no such path");
    if (std.mem.startsWith(u8, place, "tcp/")) {
        const port = std.fmt.parseUnsigned(u16, place[4..], 10) catch refuse(fd, "404 Not Found", "no such port");
        carry(fd, &head, port);
    }
    if (std.mem.eql(u8, place, "accept")) {
        acceptInner(fd, &head, context.inner orelse refuse(fd, "404 Not Found", "no inner port"));
    }
    if (std.mem.eql(u8, place, "terminal")) {
        websocket.accept(fd, head.key);
        var connection = websocket.Connection.init(fd, head.rest);
        terminal.serve(&connection, context.environ);
    }
    refuse(fd, "404 Not Found", "no such path");
}

fn refuse(fd: sys.Fd, comptime status: []const u8, text: []const u8) noreturn {
    websocket.refuse(fd, status, text);
    sys.exit(0);
}

/// Return what follows the secret in a path; null for another one.
fn placeOf(path: []const u8, nonce: []const u8) ?[]const u8 {
    if (path.len < nonce.len + 2 or nonce.len == 0 or path[0] != '/' or path[nonce.len + 1] != '/') return null;
    var difference: u8 = 0;
    for (path[1..][0..nonce.len], nonce) |given, own| difference |= given ^ own;
    return if (difference == 0) path[nonce.len + 2 ..] else null;
}

/// Carry a connection to a port. A proxy on the way need not pass on an HTTP status, so that a text says a refusal.
fn carry(fd: sys.Fd, head: *const websocket.Head, port: u16) noreturn {
    websocket.accept(fd, head.key);
    var connection = websocket.Connection.init(fd, head.rest);
    if (connect(port)) |peer| relayTcp(&connection, peer);
    connection.send(.text, "refused");
    relay.sendEnd(&connection);
    sys.exit(0);
}

fn relayTcp(connection: *websocket.Connection, peer: sys.Fd) noreturn {
    var both = relay.Relay.init(connection, peer);
    switch (both.run()) {
        .finished => relay.sendEnd(connection),
        .reset, .lost => sys.resetAtClose(peer),
    }
    sys.exit(0);
}

/// Wait for a connection to the inner port, while pings are answered, and relay it.
fn acceptInner(fd: sys.Fd, head: *const websocket.Head, listener: sys.Fd) noreturn {
    websocket.accept(fd, head.key);
    var connection = websocket.Connection.init(fd, head.rest);
    sys.setNonblocking(listener);
    while (true) {
        if (connection.next() != null) sys.exit(0);
        var entries = [_]sys.Poll{
            .{ .fd = fd, .events = if (connection.output_length > 0) sys.poll_in | sys.poll_out else sys.poll_in, .revents = 0 },
            .{ .fd = listener, .events = sys.poll_in, .revents = 0 },
        };
        sys.poll(&entries, -1);
        if (entries[0].revents & sys.poll_out != 0 and !connection.flush()) sys.exit(0);
        if (entries[0].revents & (sys.poll_in | sys.poll_ended) != 0 and !connection.receive()) sys.exit(0);
        if (entries[1].revents == 0) continue;
        const peer = sys.acceptConnection(listener) orelse continue;
        connection.send(.text, "open");
        relayTcp(&connection, peer);
    }
}

/// An address of loopback: the family, the port in network order, and for IPv6 the flow before the address.
const Address4 = extern struct { family: u16 = ipv4, port: u16, address: [4]u8 = .{ 127, 0, 0, 1 }, zero: [8]u8 = @splat(0) };
const Address6 = extern struct {
    family: u16 = ipv6,
    port: u16,
    flow: u32 = 0,
    address: [16]u8 = .{ 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 },
    scope: u32 = 0,
};

/// Listen on a port of 127.0.0.1, 0 for any.
fn listen(port: u16) ?sys.Fd {
    const fd = sys.socket(ipv4, stream) orelse return null;
    const yes: u32 = 1;
    _ = linux.setsockopt(fd, 1, 2, @ptrCast(&yes), 4); // SOL_SOCKET, SO_REUSEADDR
    const address = Address4{ .port = std.mem.nativeToBig(u16, port) };
    if (sys.ok(linux.bind(fd, @ptrCast(&address), @sizeOf(Address4))) == null) return null;
    if (sys.ok(linux.listen(fd, backlog)) == null) return null;
    return fd;
}

fn portOf(fd: sys.Fd) u16 {
    var address = Address4{ .port = 0 };
    var size: u32 = @sizeOf(Address4);
    _ = linux.getsockname(fd, @ptrCast(&address), &size);
    return std.mem.bigToNative(u16, address.port);
}

/// Connect to a port of loopback: IPv4, else IPv6, because many servers on localhost listen on ::1 alone.
fn connect(port: u16) ?sys.Fd {
    const big = std.mem.nativeToBig(u16, port);
    const four = Address4{ .port = big };
    const six = Address6{ .port = big };
    return connectTo(ipv4, @ptrCast(&four), @sizeOf(Address4)) orelse connectTo(ipv6, @ptrCast(&six), @sizeOf(Address6));
}

fn connectTo(family: u32, address: *const anyopaque, size: u32) ?sys.Fd {
    const fd = sys.socket(family, stream) orelse return null;
    if (sys.ok(linux.syscall3(.connect, sys.fdArgument(fd), @intFromPtr(address), size)) != null) return fd;
    sys.close(fd);
    return null;
}
