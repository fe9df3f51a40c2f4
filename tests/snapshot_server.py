"""A scripted lifecycle server that takes snapshots."""

from tests.scripted_servers import Reply, Server, as_json


class SnapshotServer(Server):
    """A lifecycle server that takes snapshots of any sandbox; all is well with it unless a test says more.

    Args:
        states: what a look at a snapshot finds, in order; Ready after that.
        script: what it answers to ``create``, ``list`` and ``delete`` before it is well.
    """

    def __init__(self, *, states=(), **script):
        super().__init__([])
        self.snapshots = {}
        self.states = list(states)
        self.script = {route: list(replies) for route, replies in script.items()}

    def add(self, name, snapshot_id=None):
        snapshot_id = snapshot_id or f"p{len(self.snapshots) + 1}"
        self.snapshots[snapshot_id] = {
            "id": snapshot_id,
            "sandboxId": "s1",
            "name": name,
            "status": {"state": "Creating"},
        }
        return self.snapshots[snapshot_id]

    def next_reply(self, seen):
        with self._lock:
            self.seen.append(seen)
            last = seen.path.rpartition("/")[2]
            route = {"POST": "create", "DELETE": "delete"}.get(seen.method, "list" if last == "snapshots" else "get")
            begun = self.add(seen.json["name"]) if route == "create" and not self._refuses() else None
            planned = self.script.get(route)
            return planned.pop(0) if planned else self._usual(route, last, begun)

    def _refuses(self):
        """Say whether the next answer to a create is a refusal, so that nothing is begun."""
        planned = self.script.get("create")
        return bool(planned) and not planned[0].drop

    def _usual(self, route, last, begun):
        if route == "create":
            return as_json(begun, 202)
        if route == "list":
            return as_json({"items": list(self.snapshots.values()), "pagination": {"hasNextPage": False}})
        if route == "delete":
            return Reply(204) if self.snapshots.pop(last, None) else as_json({"code": "SNAPSHOT::NOT_FOUND"}, 404)
        state = self.states.pop(0) if self.states else {"state": "Ready"}
        return as_json({**self.snapshots[last], "status": state})

    def count(self, method):
        return sum(seen.method == method for seen in self.seen)


def conflict(code):
    """Return a refusal of a snapshot route: not in its present state."""
    return as_json({"code": f"SNAPSHOT::{code}", "message": "not now"}, 409)
