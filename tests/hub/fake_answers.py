"""What the two ports of `FakeHub` answer."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.fake_files import LFS_SUFFIXES, Blob, Repo, Request

if TYPE_CHECKING:
    from tests.hub.fake_hub import FakeHub


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub
    port: str

    def setup(self) -> None:
        super().setup()
        self.hub.connections.append(self.connection)

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    do_GET = do_POST = do_PUT = do_HEAD  # noqa: N815  # the standard library's names

    def _serve(self) -> None:
        self.body = self._read_body()
        split = urlsplit(self.path)
        path = unquote(split.path)
        self.hub.requests.append(Request(self.port, self.command, path, self.headers.get("Authorization")))
        self.query = parse_qs(split.query)
        routes = _HUB if self.port == "hub" else _STORAGE
        for method, pattern, serve in routes:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                serve(self, *match.groups())
                return
        self.answer(404, {"error": f"no such endpoint: {self.command} {path}"})

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, content: object = b"", **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.pop("Content_Length", str(len(data))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def error(self, status: int, code: str = "", message: str = "") -> None:
        self.answer(status, {"error": message or code}, X_Error_Code=code, X_Error_Message=message or code)

    def reset(self) -> None:
        """Break the connection with a TCP reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def repo(self, repo_id: str) -> Repo | None:
        """The repository, if the token may see it; otherwise the refusal is answered."""
        repo = self.hub.repos.get(repo_id)
        known = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if repo is None or (repo.private and not known):
            self.error(404 if known else 401, "RepoNotFound", "Repository not found")
            return None
        if repo.gated and not known:
            self.error(401 if not self.headers.get("Authorization") else 403, "GatedRepo", "Access is restricted")
            return None
        return repo

    # the Hub

    def resolve(self, repo_id: str, revision: str, name: str) -> None:  # noqa: PLR0911
        fault = self.hub.fault(repo_id) or ""
        if fault.startswith("reset"):
            return self.reset()
        if fault.startswith("slow"):
            time.sleep(3)
        if fault.startswith("500"):
            return self.error(500, "", "Internal error")
        if fault.startswith("portal"):
            return self.answer(200, b"<html>Welcome to the hotel's network</html>", Content_Type="text/html")
        if fault.startswith("disabled"):
            return self.error(403, "", "Access to this resource is disabled.")
        repo = self.repo(repo_id)
        if repo is None:
            return None
        commit = repo.resolve(revision)
        if commit not in repo.commits:
            return self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        blob = repo.commits[commit].get(name)
        if blob is None:
            return self.answer(
                404,
                {"error": "no entry"},
                X_Error_Code="EntryNotFound",
                X_Repo_Commit=commit,
                X_Error_Message="no entry",
            )
        etag = repo.etags.get(name, blob.etag)
        if blob.lfs:
            self.hub.storage[blob.sha256] = blob.data
            return self.answer(
                302,
                X_Repo_Commit=commit,
                X_Linked_Etag=f'"{etag}"',
                X_Linked_Size=str(len(blob.data)),
                Location=f"{self.hub.storage_url}/lfs/{repo_id}/{blob.sha256}?X-Amz-Signature=SIGNATURE",
            )
        return self.answer(200, blob.data, X_Repo_Commit=commit, ETag=f'"{etag}"')

    def create_repo(self) -> None:
        if self.hub.fault("create"):
            return self.error(403, "", "You may not create this repository")
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self.error(401, "", "Invalid username or password.")
        asked = json.loads(self.body)
        repo_id = f"{asked.get('organization') or 'me'}/{asked['name']}"
        status = 409 if repo_id in self.hub.repos else 200
        if status == 200:
            self.hub.repos[repo_id] = Repo(private=asked.get("visibility") == "private")
            self.hub.publish(repo_id, {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return self.answer(status, {"url": f"{self.hub.url}/{repo_id}", "error": "exists" if status == 409 else None})

    def preupload(self, repo_id: str, _: str) -> None:
        if self.repo(repo_id) is not None:
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(self.body)["files"]
            ]
            self.answer(200, {"files": modes})

    def lfs_batch(self, repo_id: str) -> None:
        objects = [
            {**asked, "actions": {"upload": {"href": f"{self.hub.storage_url}/lfs/{repo_id}/{asked['oid']}"}}}
            for asked in json.loads(self.body)["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def commit(self, repo_id: str, branch: str) -> None:
        fault = self.hub.fault(repo_id) or ""
        repo = self.repo(repo_id)
        if repo is None:
            return None
        if branch not in repo.branches:
            return self.error(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        files: dict[str, Blob] = {}
        for line in self.body.splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                files[item["value"]["path"]] = Blob(base64.b64decode(item["value"]["content"]), lfs=False)
            elif item["key"] == "lfsFile":
                oid = item["value"]["oid"]
                if oid not in self.hub.storage:
                    return self.error(400, "", f"LFS object {oid} was not uploaded")
                files[item["value"]["path"]] = Blob(self.hub.storage[oid], lfs=True)
        if fault.startswith("500"):
            return self.error(500, "", "Internal error")
        if fault.startswith("hang"):
            self.hub.hang()
        oid = repo.commit(files)
        if fault.startswith("tampered"):
            weights = repo.commits[oid]["model.safetensors"]
            repo.commits[oid]["model.safetensors"] = Blob(weights.data[:-1] + bytes([weights.data[-1] ^ 1]), lfs=True)
        return self.answer(200, {"commitOid": oid, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}"})

    def paths_info(self, repo_id: str, revision: str) -> None:
        repo = self.repo(repo_id)
        if repo is None:
            return
        files = repo.commits[repo.resolve(revision)]
        paths = parse_qs(self.body.decode())["paths"]
        self.answer(200, [self._path_info(path, files[path]) for path in paths if path in files])

    @staticmethod
    def _path_info(path: str, blob: Blob) -> dict[str, object]:
        info = {"type": "file", "path": path, "size": len(blob.data), "oid": blob.git_sha1}
        lfs = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 134}
        return {**info, "lfs": lfs} if blob.lfs else info

    def model_info(self, repo_id: str, revision: str | None = None) -> None:
        repo = self.repo(repo_id)
        if repo is not None:
            self.answer(200, {"id": repo_id, "sha": repo.resolve(revision or "main"), "private": repo.private})

    def xet_token(self, repo_id: str, _: str, __: str) -> None:
        if self.repo(repo_id) is not None:
            token = {"casUrl": self.hub.storage_url, "exp": int(time.time()) + 3600, "accessToken": "xet-token"}
            self.answer(
                200,
                token,
                X_Xet_Cas_Url=token["casUrl"],
                X_Xet_Access_Token="xet-token",
                X_Xet_Token_Expiration=str(token["exp"]),
            )

    def validate_yaml(self) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    # its storage

    def get_lfs(self, repo_id: str, oid: str) -> None:
        data = self.hub.storage[oid]
        fault = self.hub.fault(f"{repo_id} storage") or ""
        if fault.startswith("hang"):
            return self.hub.hang()
        if fault.startswith("403"):
            return self.error(403, "", "Access denied")
        if fault.startswith("reset"):
            return self.reset()
        if fault.startswith("slow"):
            time.sleep(3)
        if fault.startswith("corrupt"):
            data = data[:-1] + bytes([data[-1] ^ 1])
        if fault.startswith("truncated"):
            self.answer(200, data[: len(data) // 2], Content_Length=str(len(data)))
            self.close_connection = True
            return None
        return self.answer(200, data)

    def upload_fails(self) -> bool:
        fault = self.hub.fault("upload") or ""
        if fault.startswith("hang"):
            self.hub.hang()
        if fault.startswith("refused"):
            self.error(400, "", "Bad request")
        return bool(fault)

    def put_lfs(self, _: str, oid: str) -> None:
        if self.upload_fails():
            return None
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.error(400, "", "the bytes do not have this hash")
        self.hub.storage[oid] = self.body
        return self.answer(200)

    def post_xorb(self, _: str) -> None:
        """Keep the bytes of a xorb: chunks of 8 bytes header and data, stored as they are."""
        if self.upload_fails():
            return
        data, rest = b"", self.body
        while len(rest) > 8 and rest[0] == 0 and rest[4] == 0:  # version 0, not compressed
            size = int.from_bytes(rest[1:4], "little")
            data, rest = data + rest[8 : 8 + size], rest[8 + size :]
        self.hub.storage[hashlib.sha256(data).hexdigest()] = data
        self.answer(200, {"was_inserted": True})

    def post_shard(self) -> None:
        self.answer(200, {"result": 1})


_HUB = [
    (("POST",), r"/api/repos/create", Handler.create_repo),
    (("POST",), r"/api/validate-yaml", Handler.validate_yaml),
    (("POST",), r"/api/models/([^/]+/[^/]+)/preupload/(.+)", Handler.preupload),
    (("POST",), r"/api/models/([^/]+/[^/]+)/commit/(.+)", Handler.commit),
    (("POST",), r"/api/models/([^/]+/[^/]+)/paths-info/(.+)", Handler.paths_info),
    (("GET",), r"/api/models/([^/]+/[^/]+)/xet-(read|write)-token/(.+)", Handler.xet_token),
    (("GET",), r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", Handler.model_info),
    (("POST",), r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (("HEAD", "GET"), r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", Handler.resolve),
]
_STORAGE = [
    (("GET", "HEAD"), r"/lfs/([^/]+/[^/]+)/([0-9a-f]{64})", Handler.get_lfs),
    (("PUT",), r"/lfs/([^/]+/[^/]+)/([0-9a-f]{64})", Handler.put_lfs),
    (("POST",), r"/v1/xorbs/default/([0-9a-f]{64})", Handler.post_xorb),
    (("POST",), r"/v1/shards", Handler.post_shard),
]
