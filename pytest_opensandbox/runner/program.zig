//! The program that a request names: its environment, its arguments, and the exec of it.

const std = @import("std");
const linux = std.os.linux;
const sys = @import("sys.zig");
const identity = @import("identity.zig");
const Request = @import("request.zig").Request;
const request_variable = @import("request.zig").variable;

/// What failed before the program began, as the report names it.
pub const Stage = enum(u8) { cwd, user, exec };

const default_path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const most_argument_bytes = 128 * 1024; // the kernel's limit, the NUL included
const kill_me_first = "200";

pub const Failure = struct { stage: Stage, errno: u16 };

/// Become the program that a request names; returns only where that fails.
///
/// The caller has set the standard streams. Signals and umask become those of a fresh process. The kernel kills the
/// program when its parent ends.
pub fn become(request: *const Request, environ: [*:null]?[*:0]u8, parent: sys.Pid) Failure {
    const variables = environment(request, environ);
    const command = commandOf(request, environ);
    _ = linux.syscall1(.umask, 0o022);
    sys.resetSignals();
    sys.setMask(0);
    preferAsVictim();
    if (request.user) |user| {
        const failed = identity.become(user, request.group orelse user);
        if (failed != 0) return .{ .stage = .user, .errno = failed };
    }
    // After the change of user, which resets this.
    sys.prctl(sys.set_death_signal, sys.sigkill);
    if (linux.getppid() != parent) sys.exit(0);
    const failed = enterDirectory(request);
    if (failed != 0) return .{ .stage = .cwd, .errno = failed };
    return .{ .stage = .exec, .errno = execute(command, variables) };
}

/// Make the directory where commands run whose request and agent name none.
pub fn makeDefaultDirectory(request: *const Request) void {
    if (request.makes_directory) _ = linux.mkdir((request.default_directory orelse return).ptr, 0o755);
}

/// When memory runs out, the kernel shall end a command before it ends the runner that reports its end.
fn preferAsVictim() void {
    const fd = sys.open("/proc/self/oom_score_adj", sys.write_only, 0) orelse return;
    _ = sys.writeAll(fd, kill_me_first);
    sys.close(fd);
}

fn enterDirectory(request: *const Request) u16 {
    if (request.directory) |directory| return sys.errnoOf(linux.chdir(directory));
    var current: [2]u8 = undefined;
    const is_root = sys.ok(linux.syscall2(.getcwd, @intFromPtr(&current), current.len)) != null;
    if (is_root) if (request.default_directory) |directory| {
        _ = linux.chdir(directory);
    };
    return 0;
}

/// Return the variables: those of the sandbox, without those that a shell added on the way, and those of the request.
fn environment(request: *const Request, environ: [*:null]?[*:0]u8) [:null]?[*:0]const u8 {
    var most: usize = request.variables.len + 2;
    while (environ[most - request.variables.len - 2] != null) most += 1;
    const all = sys.allocate(?[*:0]const u8, most);
    var count: usize = 0;
    var index: usize = 0;
    while (environ[index]) |variable| : (index += 1) {
        if (isInherited(sys.span(variable), request)) {
            all[count] = variable;
            count += 1;
        }
    }
    for (request.variables) |variable| {
        all[count] = variable.ptr;
        count += 1;
    }
    if (!hasLanguage(all[0..count])) {
        all[count] = "LANG=C.UTF-8";
        count += 1;
    }
    all[count] = null;
    return all[0..count :null];
}

fn isInherited(variable: []const u8, request: *const Request) bool {
    for ([_][]const u8{ request_variable, "_", "PWD", "OLDPWD" }) |name| {
        if (isNamed(variable, name)) return false;
    }
    if (std.mem.eql(u8, variable, "SHLVL=0")) return false;
    for (request.variables) |own| {
        if (isNamed(variable, std.mem.sliceTo(own, '='))) return false;
    }
    return true;
}

fn isNamed(variable: []const u8, name: []const u8) bool {
    return variable.len > name.len and variable[name.len] == '=' and std.mem.startsWith(u8, variable, name);
}

fn hasLanguage(variables: []const ?[*:0]const u8) bool {
    for (variables) |variable| {
        const text = sys.span(variable.?);
        if (isNamed(text, "LANG") or std.mem.startsWith(u8, text, "LC_")) return true;
    }
    return false;
}

const Command = struct { program: [:0]const u8, arguments: [:null]?[*:0]const u8 };

/// Return the request's own argument list, a shell with its text, or a shell alone.
fn commandOf(request: *const Request, environ: [*:null]?[*:0]u8) Command {
    if (request.arguments.len > 0) {
        return .{ .program = sys.span(request.arguments[0].?), .arguments = request.arguments };
    }
    const path = shell(environ);
    const arguments = sys.allocate(?[*:0]const u8, 4);
    arguments[0] = path[std.mem.findScalarLast(u8, path, '/').? + 1 ..];
    const text = request.shell_text orelse return .{ .program = path, .arguments = arguments[0..1 :null] };
    arguments[1] = "-c";
    arguments[2] = if (text.len < most_argument_bytes) text else textByFile(text);
    return .{ .program = path, .arguments = arguments[0..3 :null] };
}

/// Return a command that reads the text from a file of memory, because no argument can hold it.
fn textByFile(text: [:0]const u8) [:0]const u8 {
    const fd: sys.Fd = @intCast(sys.ok(linux.memfd_create("command", 0)) orelse return text);
    // The text closes the file, which the shell has opened again by its name, before it begins.
    if (sys.writeAll(fd, "exec 9<&-;") != 0 or sys.writeAll(fd, text) != 0) return text;
    sys.duplicate(fd, 9);
    sys.close(fd);
    return ". /proc/self/fd/9";
}

/// Return the path of bash, or of sh where there is no bash.
fn shell(environ: [*:null]?[*:0]u8) [:0]const u8 {
    for ([_][:0]const u8{ "/bin/bash", "/usr/bin/bash" }) |path| {
        if (isExecutable(path)) return path;
    }
    if (findInPath("bash", pathOf(environ))) |path| return path;
    if (isExecutable("/bin/sh")) return "/bin/sh";
    return findInPath("sh", pathOf(environ)) orelse "/bin/sh";
}

fn findInPath(name: []const u8, path: []const u8) ?[:0]const u8 {
    var directories = std.mem.splitScalar(u8, path, ':');
    while (directories.next()) |directory| {
        const candidate = joined(directory, name);
        if (isExecutable(candidate)) return candidate;
    }
    return null;
}

fn isExecutable(path: [*:0]const u8) bool {
    const here: usize = @bitCast(@as(isize, -100)); // AT_FDCWD
    return sys.ok(linux.syscall3(.faccessat, here, @intFromPtr(path), 1)) != null;
}

fn pathOf(variables: [*:null]const ?[*:0]const u8) []const u8 {
    var index: usize = 0;
    while (variables[index]) |variable| : (index += 1) {
        const text = sys.span(variable);
        if (isNamed(text, "PATH")) return text["PATH=".len..];
    }
    return default_path;
}

fn joined(directory: []const u8, name: []const u8) [:0]const u8 {
    const path = sys.allocate(u8, directory.len + name.len + 3);
    return std.fmt.bufPrintSentinel(path, "{s}/{s}", .{ if (directory.len == 0) "." else directory, name }, 0) catch unreachable;
}

/// Execute a program as execvp(3) does, by the PATH that it gets; return the error's number.
fn execute(command: Command, variables: [:null]?[*:0]const u8) u16 {
    const name = command.program;
    const arguments = command.arguments;
    if (std.mem.findScalar(u8, name, '/') != null) return sys.errnoOf(linux.execve(name, arguments, variables));
    var failed: u16 = sys.enoent;
    var directories = std.mem.splitScalar(u8, pathOf(variables), ':');
    while (directories.next()) |directory| {
        const errno = sys.errnoOf(linux.execve(joined(directory, name), arguments, variables));
        if (errno == sys.enoent or errno == sys.enotdir) continue;
        failed = errno;
        if (errno != sys.eacces) break;
    }
    return failed;
}
