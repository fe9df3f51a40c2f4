//! The server's side of one WebSocket connection (RFC 6455), without extensions.

const std = @import("std");
const linux = std.os.linux;
const sys = @import("sys.zig");

pub const most_payload = 60 * 1024; // below 65,536, so that a length has two bytes
const most_head_bytes = 8 * 1024;
const head_ms = 10_000;
const magic = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

pub const Opcode = enum(u4) { more = 0, text = 1, binary = 2, close = 8, ping = 9, pong = 10, _ };

/// The request that opens a connection.
pub const Head = struct { path: []const u8, key: []const u8, rest: []const u8 };

/// Read a request; null where it does not come in time, is too long, or does not ask for a WebSocket.
pub fn readHead(fd: sys.Fd) ?Head {
    const buffer = sys.allocate(u8, most_head_bytes);
    const until = sys.now() + head_ms * 1000;
    var length: usize = 0;
    while (length < buffer.len) {
        const left = @divTrunc(until - sys.now(), 1000);
        if (left <= 0) return null;
        var entries = [_]sys.Poll{.{ .fd = fd, .events = sys.poll_in, .revents = 0 }};
        sys.poll(&entries, @intCast(left));
        if (entries[0].revents == 0) continue;
        const count = sys.read(fd, buffer[length..]) orelse return null;
        if (count == 0) return null;
        length += count;
        const end = std.mem.find(u8, buffer[0..length], "\r\n\r\n") orelse continue;
        return parseHead(buffer[0..end], buffer[end + 4 .. length]);
    }
    return null;
}

fn parseHead(text: []const u8, rest: []const u8) ?Head {
    var lines = std.mem.splitSequence(u8, text, "\r\n");
    var words = std.mem.splitScalar(u8, lines.next() orelse return null, ' ');
    if (!std.mem.eql(u8, words.next() orelse return null, "GET")) return null;
    const target = words.next() orelse return null;
    var key: ?[]const u8 = null;
    var is_upgrade = false;
    while (lines.next()) |line| {
        const colon = std.mem.findScalar(u8, line, ':') orelse return null;
        const value = std.mem.trim(u8, line[colon + 1 ..], " \t");
        if (std.ascii.eqlIgnoreCase(line[0..colon], "sec-websocket-key")) key = value;
        if (std.ascii.eqlIgnoreCase(line[0..colon], "upgrade")) is_upgrade = std.ascii.eqlIgnoreCase(value, "websocket");
    }
    if (!is_upgrade) return null;
    return .{ .path = std.mem.sliceTo(target, '?'), .key = key orelse return null, .rest = rest };
}

/// Refuse a request with a status line and a text.
pub fn refuse(fd: sys.Fd, comptime status: []const u8, text: []const u8) void {
    var buffer: [512]u8 = undefined;
    const head = "HTTP/1.1 " ++ status ++ "\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: {d}\r\n\r\n{s}";
    const answer = std.fmt.bufPrint(&buffer, head, .{ text.len, text }) catch return;
    _ = sys.writeAll(fd, answer);
}

/// Accept a request.
pub fn accept(fd: sys.Fd, key: []const u8) void {
    var digest: [20]u8 = undefined;
    var hash = std.crypto.hash.Sha1.init(.{});
    hash.update(key);
    hash.update(magic);
    hash.final(&digest);
    var encoded: [28]u8 = undefined;
    const proof = std.base64.standard.Encoder.encode(&encoded, &digest);
    var buffer: [256]u8 = undefined;
    const head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {s}\r\n\r\n";
    _ = sys.writeAll(fd, std.fmt.bufPrint(&buffer, head, .{proof}) catch return);
}

/// What the other side has sent: bytes of a binary message, a whole text message, its end, or what breaks the rules.
pub const Event = union(enum) { bytes: []u8, text: []const u8, closed, broken };

/// One open connection; it neither reads more nor writes more than its buffers hold.
pub const Connection = struct {
    fd: sys.Fd,
    input: []u8,
    input_start: usize = 0,
    input_end: usize = 0,
    output: []u8,
    output_length: usize = 0,
    /// What is left of the payload of a frame of bytes, and how it is masked.
    left: u64 = 0,
    mask: [4]u8 = @splat(0),
    mask_index: usize = 0,
    is_in_message: bool = false,

    pub fn init(fd: sys.Fd, rest: []const u8) Connection {
        sys.setNonblocking(fd);
        const input = sys.allocate(u8, most_payload);
        @memcpy(input[0..rest.len], rest);
        return .{ .fd = fd, .input = input, .input_end = rest.len, .output = sys.allocate(u8, 2 * most_payload) };
    }

    /// Whether there is space for a frame of the longest payload.
    pub fn canSend(self: *const Connection) bool {
        return self.output.len - self.output_length >= most_payload + 14;
    }

    /// Whether there is space to read into.
    pub fn canReceive(self: *const Connection) bool {
        return self.input_start > 0 or self.input_end < self.input.len;
    }

    /// Read what has come; false at the end of the connection.
    pub fn receive(self: *Connection) bool {
        std.mem.copyForwards(u8, self.input, self.input[self.input_start..self.input_end]);
        self.input_end -= self.input_start;
        self.input_start = 0;
        const result = linux.read(self.fd, self.input.ptr + self.input_end, self.input.len - self.input_end);
        switch (sys.errnoOf(result)) {
            0 => self.input_end += result,
            sys.eagain, sys.eintr => return true,
            else => return false,
        }
        return result > 0;
    }

    /// Write what is queued; false where the connection has ended.
    pub fn flush(self: *Connection) bool {
        const result = linux.write(self.fd, self.output.ptr, self.output_length);
        switch (sys.errnoOf(result)) {
            0 => {},
            sys.eagain, sys.eintr => return true,
            else => return false,
        }
        std.mem.copyForwards(u8, self.output, self.output[result..self.output_length]);
        self.output_length -= result;
        return true;
    }

    /// Queue a frame; one that has no space, which only pongs meet, is left out.
    pub fn send(self: *Connection, opcode: Opcode, payload: []const u8) void {
        if (self.output.len - self.output_length < payload.len + 4) return;
        const head = self.output[self.output_length..];
        head[0] = 0x80 | @as(u8, @backingInt(opcode));
        const size: usize = if (payload.len < 126) 2 else 4;
        head[1] = if (size == 2) @intCast(payload.len) else 126;
        if (size == 4) std.mem.writeInt(u16, head[2..4], @intCast(payload.len), .big);
        @memcpy(head[size..][0..payload.len], payload);
        self.output_length += size + payload.len;
    }

    /// Queue the end of the connection.
    pub fn sendClose(self: *Connection, code: u16) void {
        var payload: [2]u8 = undefined;
        std.mem.writeInt(u16, &payload, code, .big);
        self.send(.close, &payload);
    }

    /// Return the next event of what was read; null where more must be read. Pings are answered on the way.
    pub fn next(self: *Connection) ?Event {
        while (true) {
            if (self.left > 0) return self.nextBytes();
            const frame = self.nextFrame() orelse return null;
            if (frame == .event) return frame.event;
        }
    }

    fn nextBytes(self: *Connection) ?Event {
        const count: usize = @intCast(@min(self.left, self.input_end - self.input_start));
        if (count == 0) return null;
        const bytes = self.input[self.input_start..][0..count];
        self.unmask(bytes);
        self.input_start += count;
        self.left -= count;
        return .{ .bytes = bytes };
    }

    fn unmask(self: *Connection, bytes: []u8) void {
        for (bytes) |*byte| {
            byte.* ^= self.mask[self.mask_index & 3];
            self.mask_index += 1;
        }
    }

    const Frame = union(enum) { event: Event, handled };

    /// Read the head of a frame; a control frame and a text as a whole.
    fn nextFrame(self: *Connection) ?Frame {
        const data = self.input[self.input_start..self.input_end];
        if (data.len < 2) return null;
        const opcode: Opcode = @fromBackingInt(@intCast(@as(u4, @truncate(data[0]))));
        const is_final = data[0] & 0x80 != 0;
        const short: u64 = data[1] & 0x7f;
        const head_size: usize = if (short < 126) 6 else if (short == 126) 8 else 14;
        if (data[0] & 0x70 != 0 or data[1] & 0x80 == 0) return .{ .event = .broken };
        if (data.len < head_size) return null;
        const length = switch (head_size) {
            6 => short,
            8 => std.mem.readInt(u16, data[2..4], .big),
            else => std.mem.readInt(u64, data[2..10], .big),
        };
        if (!self.isAllowed(opcode, is_final, length)) return .{ .event = .broken };
        self.mask = data[head_size - 4 ..][0..4].*;
        self.mask_index = 0;
        if (opcode == .binary or opcode == .more) {
            self.is_in_message = !is_final;
            self.input_start += head_size;
            self.left = length;
            return .handled;
        }
        const size: usize = @intCast(length);
        if (data.len < head_size + size) return null;
        self.input_start += head_size + size;
        return self.whole(opcode, data[head_size..][0..size]);
    }

    /// Control frames and texts are short and in one piece; a message of bytes may be of any length, in pieces.
    fn isAllowed(self: *const Connection, opcode: Opcode, is_final: bool, length: u64) bool {
        return switch (opcode) {
            .more => self.is_in_message,
            .binary => !self.is_in_message,
            .text => !self.is_in_message and is_final and length < 126,
            .close, .ping, .pong => is_final and length < 126,
            _ => false,
        };
    }

    fn whole(self: *Connection, opcode: Opcode, payload: []u8) Frame {
        self.unmask(payload);
        switch (opcode) {
            .text => return .{ .event = .{ .text = payload } },
            .close => return .{ .event = .closed },
            .ping => self.send(.pong, payload),
            else => {},
        }
        return .handled;
    }
};
