//! The report: lines on standard output that the agent passes on as events. docs/exact-output.md describes them.

const std = @import("std");
const linux = std.os.linux;
const sys = @import("sys.zig");

/// Exit code of a runner whose report did not fit on the disk and lies in a file of memory.
pub const spilled_code = 98;
/// Exit code of a runner whose report fitted nowhere.
pub const unwritten_code = 97;

const piece_bytes = 48 * 1024;
const reserved_bytes = 128 * 1024;
const stdout: sys.Fd = 1;
const encoder = std.base64.standard.Encoder;

pub const Report = struct {
    nonce: []const u8,
    line: []u8,
    fd: sys.Fd = stdout,
    is_lost: bool = false,

    /// Begin a report, and reserve space for it on the agent's disk before the command can fill that.
    pub fn begin(nonce: []const u8) Report {
        const keep_size = 1;
        _ = linux.fallocate(stdout, keep_size, 0, reserved_bytes);
        return .{ .nonce = nonce, .line = sys.allocate(u8, encoder.calcSize(piece_bytes) + 256) };
    }

    /// Write one line: the nonce, a word, and arguments.
    pub fn write(self: *Report, comptime format: []const u8, arguments: anytype) void {
        const head = std.fmt.bufPrint(self.line, "{s} " ++ format ++ "\n", .{self.nonce} ++ arguments) catch return;
        self.send(head);
    }

    /// Write bytes of a stream, as many lines as they need.
    pub fn writeStream(self: *Report, word: []const u8, content: []const u8) void {
        var rest = content;
        while (rest.len > 0) {
            const piece = rest[0..@min(rest.len, piece_bytes)];
            rest = rest[piece.len..];
            const head = std.fmt.bufPrint(self.line, "{s} {s} {d} ", .{ self.nonce, word, piece.len }) catch return;
            const text = encoder.encode(self.line[head.len..], piece);
            self.line[head.len + text.len] = '\n';
            self.send(self.line[0 .. head.len + text.len + 1]);
        }
    }

    /// End this process; its exit code says where the report is.
    pub fn finish(self: *Report) noreturn {
        sys.exit(if (self.is_lost) unwritten_code else if (self.fd != stdout) spilled_code else 0);
    }

    fn send(self: *Report, line: []const u8) void {
        if (self.fd == stdout) restoreFile();
        if (sys.writeAll(self.fd, line) == 0) return;
        if (self.fd == stdout) {
            self.fd = self.spillFile() orelse stdout;
            if (self.fd != stdout and sys.writeAll(self.fd, line) == 0) return;
        }
        self.is_lost = true;
    }

    /// Make the file of memory that takes the report when the disk is full.
    fn spillFile(self: *Report) ?sys.Fd {
        var path: [64]u8 = undefined;
        const name = std.fmt.bufPrintSentinel(&path, "/dev/shm/.opensandbox-report-{s}", .{self.nonce}, 0) catch return null;
        return sys.open(name, sys.write_only | sys.create_new | sys.append, 0o600);
    }
};

/// Make the file of standard output again where the command has removed it: ExecD reads it by its name.
fn restoreFile() void {
    var stat: linux.Statx = undefined;
    if (sys.ok(linux.statx(stdout, "", 0x1000, .{ .NLINK = true }, &stat)) == null or stat.nlink != 0) return;
    var target: [512]u8 = undefined;
    const length = sys.ok(linux.readlink("/proc/self/fd/1", &target, target.len)) orelse return;
    const suffix = ".stdout (deleted)";
    if (!std.mem.endsWith(u8, target[0..length], suffix)) return;
    const path = sys.terminated(target[0 .. length - " (deleted)".len]);
    const so_far = sys.readFile("/proc/self/fd/1", 1 << 30) orelse return;
    makeParents(path);
    const fd = sys.open(path, sys.write_only | sys.create_new | sys.append, 0o644) orelse return;
    _ = sys.writeAll(fd, so_far);
    sys.duplicate(fd, stdout);
    sys.close(fd);
}

fn makeParents(path: [:0]u8) void {
    for (path[1..], 1..) |byte, index| {
        if (byte != '/') continue;
        path[index] = 0;
        _ = linux.mkdir(path, 0o777);
        path[index] = '/';
    }
}
