//! The user that a command runs as, with the further groups that /etc/group gives to its name.

const std = @import("std");
const linux = std.os.linux;
const sys = @import("sys.zig");

const most_groups = 1024;
const most_file_bytes = 1 << 20;

/// Become a user and a group; return the error's number, 0 for success.
///
/// A process that is both already needs no right for that.
pub fn become(user: u32, group: u32) u16 {
    if (linux.geteuid() == user and linux.getegid() == group) return 0;
    const groups = furtherGroups(user, group);
    var failed = sys.errnoOf(linux.syscall2(.setgroups, groups.len, @intFromPtr(groups.ptr)));
    if (failed == 0) failed = sys.errnoOf(linux.syscall3(.setresgid, group, group, group));
    if (failed == 0) failed = sys.errnoOf(linux.syscall3(.setresuid, user, user, user));
    return failed;
}

/// Return the user's own group and those of which it is a member.
fn furtherGroups(user: u32, group: u32) []u32 {
    const groups = sys.allocate(u32, most_groups);
    groups[0] = group;
    var count: usize = 1;
    const name = nameOf(user) orelse return groups[0..1];
    const content = sys.readFile("/etc/group", most_file_bytes) orelse return groups[0..1];
    var lines = std.mem.tokenizeScalar(u8, content, '\n');
    while (lines.next()) |line| {
        const number = memberOf(line, name) orelse continue;
        if (number == group or count == most_groups) continue;
        groups[count] = number;
        count += 1;
    }
    return groups[0..count];
}

fn nameOf(user: u32) ?[]const u8 {
    const content = sys.readFile("/etc/passwd", most_file_bytes) orelse return null;
    var lines = std.mem.tokenizeScalar(u8, content, '\n');
    while (lines.next()) |line| {
        var fields = std.mem.splitScalar(u8, line, ':');
        const name = fields.next() orelse continue;
        _ = fields.next() orelse continue;
        const number = std.fmt.parseUnsigned(u32, fields.next() orelse continue, 10) catch continue;
        if (number == user) return name;
    }
    return null;
}

/// Return the number of the group of a line of /etc/group if the user is one of its members.
fn memberOf(line: []const u8, name: []const u8) ?u32 {
    var fields = std.mem.splitScalar(u8, line, ':');
    _ = fields.next() orelse return null;
    _ = fields.next() orelse return null;
    const number = std.fmt.parseUnsigned(u32, fields.next() orelse return null, 10) catch return null;
    var members = std.mem.splitScalar(u8, fields.next() orelse return null, ',');
    while (members.next()) |member| {
        if (std.mem.eql(u8, member, name)) return number;
    }
    return null;
}
