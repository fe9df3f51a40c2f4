//! The program that runs inside a sandbox. It reads a request from its environment, and does what that asks for.

const std = @import("std");
const builtin = @import("builtin");
const sys = @import("sys.zig");
const requests = @import("request.zig");
const Report = @import("report.zig").Report;
const bridge = @import("bridge.zig");
const run = @import("run.zig");
const ports = @import("ports.zig");

/// Exit code of a runner whose request cannot be read.
const bad_request_code = 96;

pub export fn _start() callconv(.naked) noreturn {
    switch (builtin.cpu.arch) {
        .x86_64 => asm volatile (
            \\ xorl %%ebp, %%ebp
            \\ movq %%rsp, %%rdi
            \\ andq $-16, %%rsp
            \\ callq %[begin:P]
            :
            : [begin] "X" (&begin),
        ),
        .aarch64 => asm volatile (
            \\ mov x29, #0
            \\ mov x0, sp
            \\ b %[begin]
            :
            : [begin] "X" (&begin),
        ),
        else => @compileError("neither x86_64 nor aarch64"),
    }
}

/// The stack holds the number of arguments, the arguments, a null, the variables, and a null.
fn begin(stack: [*]usize) callconv(.c) noreturn {
    const environ: [*:null]?[*:0]u8 = @ptrCast(stack + 1 + stack[0] + 1);
    sys.openStandardStreams();
    const request = takeRequest(environ) orelse {
        _ = sys.writeAll(2, "pytest-opensandbox runner, protocol " ++ requests.version ++ ": no readable request\n");
        sys.exit(bad_request_code);
    };
    var report = Report.begin(request.nonce);
    refuseOtherSandbox(&request, environ, &report);
    switch (request.kind) {
        .run => run.run(&request, environ, &report),
        .signal => sendSignal(&request, &report),
        .port => ports.wait(&request, &report),
        .bridge => bridge.serve(&request, environ, &report),
        .terminal => sys.exit(bad_request_code), // a bridge serves terminals
    }
}

fn takeRequest(environ: [*:null]?[*:0]u8) ?requests.Request {
    return requests.fromVariable(valueOf(environ, requests.variable) orelse return null);
}

/// Send a signal to a process group that an earlier request has started.
fn sendSignal(request: *const requests.Request, report: *Report) noreturn {
    const failed = if (request.process_group > 1) sys.kill(-request.process_group, request.signal) else sys.einval;
    if (failed == 0) report.write("end 0 0 0 0 0", .{}) else report.write("fail signal {d}", .{failed});
    report.finish();
}

/// Servers that set OPENSANDBOX_ID may give one agent to several sandboxes.
fn refuseOtherSandbox(request: *const requests.Request, environ: [*:null]?[*:0]u8, report: *Report) void {
    const own = valueOf(environ, "OPENSANDBOX_ID") orelse return;
    if (own.len == 0 or request.sandbox_id.len == 0 or std.mem.eql(u8, own, request.sandbox_id)) return;
    report.write("refuse {s}", .{own[0..@min(own.len, 200)]});
    report.finish();
}

fn valueOf(environ: [*:null]?[*:0]u8, name: []const u8) ?[:0]u8 {
    var index: usize = 0;
    while (environ[index]) |variable| : (index += 1) {
        const text = std.mem.span(variable);
        if (text.len > name.len and text[name.len] == '=' and std.mem.startsWith(u8, text, name)) {
            return text[name.len + 1 ..];
        }
    }
    return null;
}
