"""A small HTTP server that answers the hub's client as the hub does: what create, upload, list and download need.

Repositories are dictionaries of branches; files of .safetensors go by the LFS protocol, the rest inside the commit.
What a client asks for is the real client's doing; what the real hub answers beyond this is not shown by it.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_stand_in"


@dataclass
class Repository:
    """Its files by branch, and whether it is private."""

    private: bool = False
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})

    def files(self, revision: str) -> dict[str, bytes] | None:
        """The files of a branch or of a commit, None for an unknown one."""
        if revision in self.branches:
            return self.branches[revision]
        return next((files for files in self.branches.values() if commit_of(files) == revision), None)


def commit_of(files: dict[str, bytes]) -> str:
    """Forty hex digits that depend on every byte."""
    whole = hashlib.sha1()
    for name in sorted(files):
        whole.update(name.encode() + b"\0" + hashlib.sha1(files[name]).digest())
    return whole.hexdigest()


class Hub:
    """The stand-in, serving while it is entered; `repositories` by "owner/name", `asked` the requests it had."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []

    def __enter__(self) -> "Hub":
        hub = self

        class Handler(Answers):
            served = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class Answers(BaseHTTPRequestHandler):
    """One request."""

    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def say(self, value: Any, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode(), Content_Type="application/json")

    def handle_request(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        writes = path in ("/api/repos/create",) or any(word in path for word in ("/preupload/", "/commit/", "/branch/"))
        if writes and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.say({"error": "Invalid username or password."}, 401)
        for pattern, answer in ROUTES.items():
            found = re.fullmatch(pattern, f"{self.command} {path}")
            if found:
                return answer(self, body, *found.groups())
        return self.say({"error": "no such page"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def files_at(self, name: str, revision: str) -> dict[str, bytes] | None:
        """The files asked for, or an answer that says what there is not."""
        repository = self.served.repositories.get(name)
        hidden = repository and repository.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"
        if repository is None or hidden:
            self.send(401, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return None
        files = repository.files(revision)
        if files is None:
            self.send(404, b"{}", X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
        return files

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.served.repositories:
            return self.say({"error": "You already created this model repo", "url": f"{self.served.url}/{name}"}, 409)
        self.served.repositories[name] = Repository(bool(asked.get("private")) or asked.get("visibility") == "private")
        return self.say({"url": f"{self.served.url}/{name}", "name": name, "id": "1"})

    def branch(self, _: bytes, name: str, branch: str) -> None:
        self.served.repositories[name].branches.setdefault(branch, {})
        self.say({})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        files = json.loads(body)["files"]
        mode = {True: "lfs", False: "regular"}
        said = [
            {"path": f["path"], "uploadMode": mode[f["path"].endswith(".safetensors")], "shouldIgnore": False}
            for f in files
        ]
        self.say({"files": said})

    def batch(self, body: bytes, name: str) -> None:
        objects = json.loads(body)["objects"]
        actions = [{**o, "actions": {"upload": {"href": f"{self.served.url}/objects/{o['oid']}"}}} for o in objects]
        self.say({"transfer": "basic", "objects": actions})

    def store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.say({"error": "another checksum"}, 400)
        self.served.objects[oid] = body
        return self.say({})

    def commit(self, body: bytes, name: str, revision: str) -> None:
        repository = self.served.repositories.get(name)
        if repository is None or revision not in repository.branches:
            return self.say({"error": "no such repository or branch"}, 404)
        files = repository.branches[revision]
        for line in body.splitlines():
            part = json.loads(line)
            value = part["value"]
            if part["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif part["key"] == "lfsFile":
                files[value["path"]] = self.served.objects[value["oid"]]
        commit = commit_of(files)
        return self.say(
            {"commitOid": commit, "commitUrl": f"{self.served.url}/{name}/commit/{commit}", "hookOutput": ""}
        )

    def info(self, _: bytes, name: str, revision: str = "main") -> None:
        files = self.files_at(name, revision)
        if files is not None:
            siblings = [{"rfilename": file} for file in files]
            self.say({"id": name, "modelId": name, "sha": commit_of(files), "siblings": siblings, "private": False})

    def tree(self, _: bytes, name: str, revision: str) -> None:
        files = self.files_at(name, revision)
        if files is not None:
            self.say(
                [
                    {"type": "file", "path": f, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                    for f, c in files.items()
                ]
            )

    def resolve(self, _: bytes, name: str, revision: str, file: str) -> None:
        files = self.files_at(name, revision)
        if files is None:
            return
        if file not in files:
            self.send(404, b"{}", X_Error_Code="EntryNotFound")
            return
        content = files[file]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self.send(200, content, ETag=etag, X_Repo_Commit=commit_of(files), Accept_Ranges="bytes")


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = {
    r"POST /api/repos/create": Answers.create,
    r"POST /api/validate-yaml": lambda self, body: self.say({"errors": [], "warnings": []}),
    rf"POST /api/models/{NAME}/branch/(.+)": Answers.branch,
    rf"POST /api/models/{NAME}/preupload/(.+)": Answers.preupload,
    rf"POST /api/models/{NAME}/commit/(.+)": Answers.commit,
    rf"POST /{NAME}\.git/info/lfs/objects/batch": Answers.batch,
    r"PUT /objects/(\w+)": Answers.store,
    rf"GET /api/models/{NAME}": Answers.info,
    rf"GET /api/models/{NAME}/revision/([^/]+)": Answers.info,
    rf"GET /api/models/{NAME}/tree/([^/]+)": Answers.tree,
    rf"(?:GET|HEAD) /{NAME}/resolve/([^/]+)/(.+)": Answers.resolve,
}
