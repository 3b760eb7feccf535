from __future__ import annotations

import pytest

from tests.devcluster import apt_sources
from tests.devcluster.apt_sources import Source
from tests.devcluster.errors import BuildError
from tests.devcluster.kubernetes_source import upstream_version

DEB822 = """\
Types: deb
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /keys/debian.gpg

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main
Enabled: no

Types: deb
URIs: http://vendor.example/
Suites: nodistro
Components: main
"""

LINES = """\
# deb http://mirror.example/old bookworm main
deb [arch=amd64 signed-by=/keys/other.gpg] http://mirror.example/debian bookworm main contrib # note
deb-src http://mirror.example/debian bookworm main
deb http://vendor.example/ stable main
"""


def test_deb822_sources_of_the_release_are_read_and_others_left_out() -> None:
    assert apt_sources.parse([("debian.sources", DEB822)], "bookworm") == [
        Source(
            "http://mirror.example/debian",
            ("bookworm", "bookworm-updates"),
            "main",
            "/keys/debian.gpg",
        )
    ]


def test_one_line_sources_are_read_with_their_key() -> None:
    assert apt_sources.parse([("sources.list", LINES)], "bookworm") == [
        Source("http://mirror.example/debian", ("bookworm",), "main contrib", "/keys/other.gpg")
    ]


def test_a_key_within_the_stanza_is_left_to_the_system() -> None:
    text = (
        "Types: deb\nURIs: http://m.example\nSuites: bookworm\nComponents: main\n"
        "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n"
    )
    (source,) = apt_sources.parse([("x.sources", text)], "bookworm")
    assert source.signed_by is None
    assert source.components == "main"


def test_the_copy_asks_for_source_packages() -> None:
    source = Source("http://m.example", ("bookworm", "bookworm-updates"), "main", "/k.gpg")
    assert source.as_sources() == (
        "Types: deb-src\nURIs: http://m.example\nSuites: bookworm bookworm-updates\n"
        "Components: main\nSigned-By: /k.gpg\n"
    )


def test_the_mirror_is_one_that_holds_the_release_itself() -> None:
    security = Source("http://s.example", ("bookworm-security",), "main")
    release = Source("http://m.example", ("bookworm",), "main")
    assert apt_sources.mirror([security, release], "bookworm") == release
    with pytest.raises(BuildError, match="no mirror with the suite bookworm"):
        apt_sources.mirror([security], "bookworm")


@pytest.mark.parametrize(
    ("archive", "version"),
    [
        ("kubernetes_1.20.5+really1.20.2.orig.tar.gz", "1.20.2"),
        ("kubernetes_1.33.1.orig.tar.gz", "1.33.1"),
    ],
)
def test_the_version_is_the_one_that_it_really_is(archive: str, version: str) -> None:
    assert upstream_version(archive) == version
