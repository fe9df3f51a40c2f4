//! The processes that belong to a command: its children, and theirs, whatever group or session they are in.
//!
//! The runner is the reaper of its descendants: a process that loses its parent becomes a child of the runner, so that
//! the chain of parents from each of them to the runner is never broken.

const std = @import("std");
const linux = std.os.linux;
const sys = @import("sys.zig");

const most_processes = 1 << 18;
const most_rounds = 1000;

/// Make this process the reaper of its descendants.
pub fn adoptOrphans() void {
    sys.prctl(sys.set_subreaper, 1);
}

/// Kill every descendant of this process, and have `context` reap them, until none is left.
///
/// They are stopped first, so that none of them starts another one meanwhile. What does not end, because the system
/// holds it, is given up. Without /proc none can be found.
pub fn killDescendants(context: anytype) void {
    var rounds: usize = 0;
    while (rounds < most_rounds and signalDescendants(sys.sigstop, .running) > 0) rounds += 1;
    while (rounds < most_rounds and signalDescendants(sys.sigkill, .alive) > 0) : (rounds += 1) {
        context.reapAll();
        sys.sleepMs(1);
    }
    context.reapAll();
}

/// Which descendants get a signal.
pub const Which = enum { alive, running };

/// Send a signal to descendants of this process; return how many got it.
pub fn signalDescendants(signal: sys.Signal, which: Which) usize {
    var table = Table.read() orelse return 0;
    table.markDescendants(@intCast(linux.getpid()));
    var found: usize = 0;
    for (table.entries[0..table.count]) |entry| {
        if (!entry.is_descendant or entry.state == .dead) continue;
        if (which == .running and entry.state == .stopped) continue;
        _ = sys.kill(entry.pid, signal);
        found += 1;
    }
    return found;
}

const State = enum { running, stopped, dead };

const Entry = struct { pid: sys.Pid, parent: sys.Pid, state: State, is_descendant: bool = false };

// One table for the life of the process, of which only used pages take memory.
var storage: ?[]Entry = null;

const Table = struct {
    entries: []Entry,
    count: usize = 0,

    fn read() ?Table {
        const directory = sys.open("/proc", sys.read_only, 0) orelse return null;
        defer sys.close(directory);
        if (storage == null) storage = sys.allocate(Entry, most_processes);
        var table = Table{ .entries = storage.? };
        var names: [4096]u8 align(8) = undefined;
        while (true) {
            const size = sys.ok(linux.getdents64(directory, &names, names.len)) orelse return null;
            if (size == 0) return table;
            table.addAll(names[0..size]);
        }
    }

    /// Add the processes among the entries of /proc: records of inode, offset, length, type and name.
    fn addAll(self: *Table, records: []const u8) void {
        var rest = records;
        while (rest.len > 19) {
            const length = std.mem.readInt(u16, rest[16..18], .little);
            const name = std.mem.sliceTo(rest[19..length], 0);
            if (std.fmt.parseUnsigned(u31, name, 10)) |pid| self.add(pid) else |_| {}
            rest = rest[length..];
        }
    }

    fn add(self: *Table, pid: sys.Pid) void {
        if (self.count == self.entries.len) return;
        self.entries[self.count] = readEntry(pid) orelse return;
        self.count += 1;
    }

    fn markDescendants(self: *Table, root: sys.Pid) void {
        var has_changed = true;
        while (has_changed) {
            has_changed = false;
            for (self.entries[0..self.count]) |*entry| {
                if (entry.is_descendant or !(entry.parent == root or self.isMarked(entry.parent))) continue;
                entry.is_descendant = true;
                has_changed = true;
            }
        }
    }

    fn isMarked(self: *Table, pid: sys.Pid) bool {
        // The kernel lists processes in the order of their numbers.
        var low: usize = 0;
        var high = self.count;
        while (low < high) {
            const middle = (low + high) / 2;
            if (self.entries[middle].pid < pid) low = middle + 1 else high = middle;
        }
        return low < self.count and self.entries[low].pid == pid and self.entries[low].is_descendant;
    }
};

/// Read `/proc/PID/stat`: the state and the parent stand behind the name, which is in brackets and may hold any byte.
fn readEntry(pid: sys.Pid) ?Entry {
    var path: [32]u8 = undefined;
    const name = std.fmt.bufPrintSentinel(&path, "/proc/{d}/stat", .{pid}, 0) catch return null;
    const fd = sys.open(name, sys.read_only, 0) orelse return null;
    defer sys.close(fd);
    var content: [512]u8 = undefined;
    const size = sys.read(fd, &content) orelse return null;
    const bracket = std.mem.findScalarLast(u8, content[0..size], ')') orelse return null;
    var words = std.mem.tokenizeScalar(u8, content[bracket + 1 .. size], ' ');
    const state = words.next() orelse return null;
    const parent = std.fmt.parseUnsigned(u31, words.next() orelse return null, 10) catch return null;
    return .{ .pid = pid, .parent = parent, .state = switch (state[0]) {
        'Z', 'X', 'x' => .dead,
        'T', 't' => .stopped,
        else => .running,
    } };
}
