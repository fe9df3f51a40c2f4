//! The request: what to run and how, as the client encodes it. docs/exact-output.md describes the format.

const std = @import("std");
const sys = @import("sys.zig");

pub const variable = "OPENSANDBOX_RUNNER_REQUEST";
pub const version = "1";

const most_bytes = 1 << 31;

pub const Kind = enum { run, signal, port, bridge, terminal };

var none = [_:null]?[*:0]const u8{};

/// One request. Texts that the system takes end with NUL.
pub const Request = struct {
    kind: Kind = .run,
    nonce: []const u8 = "",
    sandbox_id: []const u8 = "",
    /// As execve(2) wants them; empty for a text, and for a shell alone.
    arguments: [:null]?[*:0]const u8 = &none,
    shell_text: ?[:0]const u8 = null,
    variables: [][:0]const u8 = &.{},
    directory: ?[:0]const u8 = null,
    default_directory: ?[:0]const u8 = null,
    makes_directory: bool = false,
    user: ?u32 = null,
    group: ?u32 = null,
    input: ?[]const u8 = null,
    most_kept: usize = 1 << 24,
    limit_ms: ?u32 = null,
    is_live: bool = false,
    /// What the paths of the two files begin with that take long output.
    output_path: ?[]const u8 = null,
    process_group: sys.Pid = 0,
    signal: sys.Signal = 0,
    port: u16 = 0,
    inner_port: ?u16 = null,
    rows: u16 = 24,
    columns: u16 = 80,
};

/// Read the value of the variable, and wipe it, because /proc shows the environment that a process began with.
///
/// Returns null for a request that cannot be read.
pub fn fromVariable(value: [:0]u8) ?Request {
    defer @memset(value, 0);
    if (value.len > 0 and value[0] == '@') return parse(takeFile(sys.terminated(value[1..])) orelse return null);
    const decoder = std.base64.standard.Decoder;
    const size = decoder.calcSizeForSlice(value) catch return null;
    const content = sys.allocate(u8, size);
    decoder.decode(content, value) catch return null;
    return parse(content);
}

fn takeFile(path: [:0]const u8) ?[]const u8 {
    const content = sys.readFile(path, most_bytes);
    _ = std.os.linux.unlink(path);
    return content;
}

/// Parse fields of the form `<tag><length>:<bytes>`; null where they are not of that form.
pub fn parse(content: []const u8) ?Request {
    var request = Request{};
    var fields = Fields{ .rest = content };
    const first = fields.next() orelse return null;
    if (first.tag != 'v' or !std.mem.eql(u8, first.value, version)) return null;
    const words = sys.allocate(?[*:0]const u8, fields.count('a') + 1);
    request.variables = sys.allocate([:0]const u8, fields.count('e'));
    var word_count: usize = 0;
    var variable_count: usize = 0;
    while (fields.next()) |field| {
        switch (field.tag) {
            'a' => {
                words[word_count] = sys.terminated(field.value);
                word_count += 1;
            },
            'e' => {
                request.variables[variable_count] = sys.terminated(field.value);
                variable_count += 1;
            },
            else => if (!set(&request, field)) return null,
        }
    }
    words[word_count] = null;
    request.arguments = words[0..word_count :null];
    if (request.kind == .run and word_count == 0 and request.shell_text == null) return null;
    return if (fields.rest.len == 0) request else null;
}

/// Set one field that occurs once; false where its value is not of its kind.
fn set(request: *Request, field: Field) bool {
    const value = field.value;
    switch (field.tag) {
        'k' => request.kind = std.meta.stringToEnum(Kind, value) orelse return false,
        'n' => request.nonce = value,
        'b' => request.sandbox_id = value,
        's' => request.shell_text = sys.terminated(value),
        'c' => request.directory = sys.terminated(value),
        'd' => request.default_directory = sys.terminated(value),
        'p' => request.makes_directory = true,
        'u' => request.user = number(u32, value) orelse return false,
        'g' => request.group = number(u32, value) orelse return false,
        'i' => request.input = value,
        'm' => request.most_kept = number(usize, value) orelse return false,
        't' => request.limit_ms = number(u32, value) orelse return false,
        'l' => request.is_live = true,
        'f' => request.output_path = value,
        'j' => request.process_group = number(u31, value) orelse return false,
        'z' => request.signal = number(sys.Signal, value) orelse return false,
        'o' => request.port = number(u16, value) orelse return false,
        'x' => request.inner_port = number(u16, value) orelse return false,
        'r' => request.rows = number(u16, value) orelse return false,
        'w' => request.columns = number(u16, value) orelse return false,
        else => return false,
    }
    return true;
}

fn number(comptime T: type, text: []const u8) ?T {
    return std.fmt.parseUnsigned(T, text, 10) catch null;
}

const Field = struct { tag: u8, value: []const u8 };

const Fields = struct {
    rest: []const u8,

    /// Take the next field; null at the end, and at what is no field, which then stays in `rest`.
    fn next(self: *Fields) ?Field {
        const colon = std.mem.findScalar(u8, self.rest[0..@min(self.rest.len, 16)], ':') orelse return null;
        if (colon < 2) return null;
        const length = number(usize, self.rest[1..colon]) orelse return null;
        if (length > self.rest.len - colon - 1) return null;
        const end = colon + 1 + length;
        const field = Field{ .tag = self.rest[0], .value = self.rest[colon + 1 .. end] };
        self.rest = self.rest[end..];
        return field;
    }

    fn count(self: Fields, tag: u8) usize {
        var fields = self;
        var found: usize = 0;
        while (fields.next()) |field| found += @intFromBool(field.tag == tag);
        return found;
    }
};
