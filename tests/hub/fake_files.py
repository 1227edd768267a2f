"""Repositories of `FakeHub`: commits of files, in Git or in LFS."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

LFS_SUFFIXES = (".safetensors", ".bin")


class Request(NamedTuple):
    """What a server was asked."""

    port: str  # "hub" or "storage"
    method: str
    path: str
    authorization: str | None


@dataclass
class Blob:
    """A file's bytes, in Git or in LFS."""

    data: bytes
    lfs: bool

    @property
    def git_sha1(self) -> str:
        content = self.data
        if self.lfs:
            content = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n".encode()
            )
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_sha1


@dataclass
class Repo:
    """Commits, the newest last; `main` is the newest."""

    private: bool = False
    gated: bool = False
    branches: tuple[str, ...] = ("main",)
    etags: dict[str, str] = field(default_factory=dict)
    """Other etags than the right ones, by file."""
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)

    def commit(self, files: dict[str, Blob]) -> str:
        newest = list(self.commits.values())[-1] if self.commits else {}
        self.commits[hashlib.sha1(b"commit %d %d" % (id(self), len(self.commits))).hexdigest()] = {**newest, **files}
        return self.resolve("main")

    def resolve(self, revision: str) -> str:
        return list(self.commits)[-1] if revision in self.branches else revision
