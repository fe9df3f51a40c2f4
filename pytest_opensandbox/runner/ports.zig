//! Ports on which a server listens, as /proc/net has them; no connection is made.

const std = @import("std");
const sys = @import("sys.zig");
const Request = @import("request.zig").Request;
const Report = @import("report.zig").Report;

const most_file_bytes = 1 << 24;
const listening = "0A";
const pause_ms = 20;

/// Wait until a server listens on the port of a request, report, and end this process.
pub fn wait(request: *const Request, report: *Report) noreturn {
    const until = sys.now() + @as(i64, request.limit_ms orelse 0) * 1000;
    while (!isListening(request.port)) {
        if (sys.now() >= until) {
            report.write("fail port {d}", .{sys.etimedout});
            report.finish();
        }
        sys.sleepMs(pause_ms);
    }
    report.write("end 0 0 0 0 0", .{});
    report.finish();
}

fn isListening(port: u16) bool {
    return isIn("/proc/net/tcp", port) or isIn("/proc/net/tcp6", port);
}

fn isIn(path: [*:0]const u8, port: u16) bool {
    const content = sys.readFile(path, most_file_bytes) orelse return false;
    defer sys.release(content.ptr, most_file_bytes);
    var lines = std.mem.tokenizeScalar(u8, content, '\n');
    while (lines.next()) |line| {
        if (isListener(line, port)) return true;
    }
    return false;
}

/// A line is `number: address:port address:port state ...`, with the ports and the state in hexadecimal.
fn isListener(line: []const u8, port: u16) bool {
    var words = std.mem.tokenizeScalar(u8, line, ' ');
    _ = words.next() orelse return false;
    const address = words.next() orelse return false;
    _ = words.next() orelse return false;
    if (!std.mem.eql(u8, words.next() orelse return false, listening)) return false;
    const colon = std.mem.findScalarLast(u8, address, ':') orelse return false;
    return port == std.fmt.parseUnsigned(u16, address[colon + 1 ..], 16) catch return false;
}
