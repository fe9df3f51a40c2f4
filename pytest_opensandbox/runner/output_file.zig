//! The file that takes what a stream writes beyond its first part: raw bytes cost an agent less than lines do.

const std = @import("std");
const linux = std.os.linux;
const sys = @import("sys.zig");
const Report = @import("report.zig").Report;

const piece_bytes = 48 * 1024;

pub const OutputFile = struct {
    path: ?[:0]const u8,
    fd: ?sys.Fd = null,
    /// How much lies in the file.
    bytes: usize = 0,
    is_finished: bool = false,

    /// The file of one stream, at a path that the request names; a request without one wants all in lines.
    pub fn init(prefix: ?[]const u8, word: []const u8) OutputFile {
        return .{ .path = if (prefix) |path| join(path, word) else null };
    }

    /// Write what fits; return the rest, which follows what lies in the file.
    pub fn take(self: *OutputFile, content: []const u8) []const u8 {
        const fd = self.open() orelse return content;
        var rest = content;
        while (rest.len > 0) {
            const result = linux.write(fd, rest.ptr, rest.len);
            switch (sys.errnoOf(result)) {
                0 => rest = rest[result..],
                sys.eintr => {},
                else => break,
            }
        }
        self.bytes += content.len - rest.len;
        return rest;
    }

    /// Report what lies in the file, and take nothing more: its length, or the bytes where the file was removed.
    pub fn finish(self: *OutputFile, word: []const u8, report: *Report) void {
        self.is_finished = true;
        const fd = self.fd orelse return;
        if (isNamed(fd)) report.write("file {s} {d}", .{ word, self.bytes }) else self.readBack(fd, word, report);
        sys.close(fd);
        self.fd = null;
    }

    fn open(self: *OutputFile) ?sys.Fd {
        if (self.is_finished) return null;
        if (self.fd == null) self.fd = sys.open(self.path orelse return null, sys.read_write | sys.create_new, 0o600);
        return self.fd;
    }

    fn readBack(self: *const OutputFile, fd: sys.Fd, word: []const u8, report: *Report) void {
        const piece = sys.allocate(u8, piece_bytes);
        defer sys.release(piece.ptr, piece.len);
        var done: usize = 0;
        while (done < self.bytes) {
            const count = sys.ok(linux.pread(fd, piece.ptr, piece.len, @intCast(done))) orelse return;
            if (count == 0) return;
            report.writeStream(word, piece[0..count]);
            done += count;
        }
    }
};

fn isNamed(fd: sys.Fd) bool {
    var stat: linux.Statx = undefined;
    return sys.ok(linux.statx(fd, "", 0x1000, .{ .NLINK = true }, &stat)) != null and stat.nlink > 0; // AT_EMPTY_PATH
}

fn join(path: []const u8, word: []const u8) [:0]const u8 {
    const whole = sys.allocate(u8, path.len + word.len + 1);
    @memcpy(whole[0..path.len], path);
    @memcpy(whole[path.len..][0..word.len], word);
    return whole[0 .. path.len + word.len :0];
}
