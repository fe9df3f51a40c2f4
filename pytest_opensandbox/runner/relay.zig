//! The relay between one WebSocket connection and one descriptor: a TCP connection, or the master of a terminal.
//!
//! Nothing is read from one side while what was read before is not written to the other.

const std = @import("std");
const linux = std.os.linux;
const sys = @import("sys.zig");
const websocket = @import("websocket.zig");

pub const eof = "eof";
pub const reset = "reset";

const normal = 1000;
const protocol_error = 1002;
/// How long the last frames may take; milliseconds.
const last_frames_ms = 5_000;

/// How a relay ended.
pub const End = enum { finished, reset, lost };

pub const Relay = struct {
    connection: *websocket.Connection,
    fd: sys.Fd,
    /// Takes texts other than `eof` and `reset`; null where none is allowed.
    on_text: ?*const fn (fd: sys.Fd, text: []const u8) void = null,
    /// Readable when the process behind the descriptor has ended; null for a TCP connection.
    ended_fd: ?sys.Fd = null,
    /// Bytes on their way to the descriptor, in a buffer of their own.
    pending: []const u8 = "",
    taken: []u8,
    /// For bytes on their way to the connection.
    piece: []u8,
    /// Whether nothing more can be read from the connection; what was read before still counts.
    client_is_gone: bool = false,
    client_has_ended: bool = false,
    peer_has_ended: bool = false,

    pub fn init(connection: *websocket.Connection, fd: sys.Fd) Relay {
        sys.setNonblocking(fd);
        const size = websocket.most_payload;
        return .{ .connection = connection, .fd = fd, .taken = sys.allocate(u8, size), .piece = sys.allocate(u8, size) };
    }

    /// Relay until both sides have ended, or one is lost. The caller closes both.
    pub fn run(self: *Relay) End {
        while (true) {
            if (self.takeEvents()) |end| return end;
            if (self.client_has_ended and self.peer_has_ended and self.pending.len == 0) return .finished;
            if (self.waitAndMove()) |end| return end;
        }
    }

    /// Handle what has arrived, up to bytes that the descriptor does not take yet.
    fn takeEvents(self: *Relay) ?End {
        while (self.pending.len == 0) {
            switch (self.connection.next() orelse return if (self.client_is_gone) .lost else null) {
                .bytes => |bytes| {
                    @memcpy(self.taken[0..bytes.len], bytes);
                    self.pending = self.taken[0..bytes.len];
                },
                .text => |text| if (std.mem.eql(u8, text, eof)) {
                    self.client_has_ended = true;
                    if (self.ended_fd == null) _ = linux.shutdown(self.fd, 1); // SHUT_WR
                } else if (std.mem.eql(u8, text, reset)) return .reset else if (self.on_text) |take| {
                    take(self.fd, text);
                } else return self.broken(),
                .closed => return if (self.client_has_ended) .finished else .reset,
                .broken => return self.broken(),
            }
        }
        return null;
    }

    fn broken(self: *Relay) End {
        self.connection.sendClose(protocol_error);
        finish(self.connection);
        return .reset;
    }

    fn waitAndMove(self: *Relay) ?End {
        const none: sys.Fd = -1;
        const reads_peer = !self.peer_has_ended and self.connection.canSend();
        var entries = [_]sys.Poll{
            .{ .fd = if (self.client_is_gone) none else self.connection.fd, .events = self.socketEvents(), .revents = 0 },
            .{ .fd = if (reads_peer or self.pending.len > 0) self.fd else none, .events = self.peerEvents(reads_peer), .revents = 0 },
            .{ .fd = if (self.peer_has_ended) none else self.ended_fd orelse none, .events = sys.poll_in, .revents = 0 },
        };
        sys.poll(&entries, -1);
        if (entries[0].revents & sys.poll_out != 0 and !self.connection.flush()) self.client_is_gone = true;
        if (entries[0].revents & (sys.poll_in | sys.poll_ended) != 0 and self.connection.canReceive()) {
            if (!self.connection.receive()) self.client_is_gone = true;
        }
        if (self.pending.len > 0) if (self.writePeer()) |end| return end;
        if (reads_peer) if (self.readPeer()) |end| return end;
        if (entries[2].revents != 0) self.drain();
        return null;
    }

    fn socketEvents(self: *const Relay) i16 {
        var events: i16 = 0;
        if (self.connection.canReceive()) events |= sys.poll_in;
        if (self.connection.output_length > 0) events |= sys.poll_out;
        return events;
    }

    fn peerEvents(self: *const Relay, reads_peer: bool) i16 {
        var events: i16 = 0;
        if (reads_peer) events |= sys.poll_in;
        if (self.pending.len > 0) events |= sys.poll_out;
        return events;
    }

    fn writePeer(self: *Relay) ?End {
        const result = linux.write(self.fd, self.pending.ptr, self.pending.len);
        switch (sys.errnoOf(result)) {
            0 => self.pending = self.pending[result..],
            sys.eagain, sys.eintr => {},
            else => return self.peerFailed(),
        }
        return null;
    }

    fn readPeer(self: *Relay) ?End {
        const result = linux.read(self.fd, self.piece.ptr, self.piece.len);
        switch (sys.errnoOf(result)) {
            0 => if (result > 0) self.connection.send(.binary, self.piece[0..result]) else self.peerEnded(),
            sys.eagain, sys.eintr => {},
            else => return self.peerFailed(),
        }
        return null;
    }

    fn peerEnded(self: *Relay) void {
        self.peer_has_ended = true;
        if (self.ended_fd == null) self.connection.send(.text, eof);
    }

    /// A terminal fails so when its last process has closed it; a TCP connection when it was reset.
    fn peerFailed(self: *Relay) ?End {
        if (self.ended_fd != null) {
            self.peer_has_ended = true;
            self.client_has_ended = true;
            self.pending = "";
            return null;
        }
        self.connection.send(.text, reset);
        finish(self.connection);
        return .reset;
    }

    /// The process has ended: pass on what it wrote last, and no more of what others may write.
    fn drain(self: *Relay) void {
        while (!self.peer_has_ended and self.connection.canSend()) {
            const result = linux.read(self.fd, self.piece.ptr, self.piece.len);
            if (sys.errnoOf(result) != 0 or result == 0) break;
            self.connection.send(.binary, self.piece[0..result]);
        }
        self.peer_has_ended = true;
        self.client_has_ended = true;
        self.pending = "";
    }
};

/// Send what is queued and a normal end.
pub fn sendEnd(connection: *websocket.Connection) void {
    connection.sendClose(normal);
    finish(connection);
}

fn finish(connection: *websocket.Connection) void {
    const until = sys.now() + last_frames_ms * 1000;
    while (connection.output_length > 0 and sys.now() < until) {
        var entries = [_]sys.Poll{.{ .fd = connection.fd, .events = sys.poll_out, .revents = 0 }};
        sys.poll(&entries, 100);
        if (entries[0].revents != 0 and !connection.flush()) return;
    }
    // A close with bytes unread would be a reset, which may overtake what was just sent.
    _ = linux.shutdown(connection.fd, 1); // SHUT_WR
    while (sys.now() < until) {
        var entries = [_]sys.Poll{.{ .fd = connection.fd, .events = sys.poll_in, .revents = 0 }};
        sys.poll(&entries, 100);
        connection.input_start = connection.input_end;
        if (entries[0].revents != 0 and !connection.receive()) return;
    }
}
