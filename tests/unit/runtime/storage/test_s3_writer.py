"""How objects are written in parts, and what is left when that ends early."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from shardedmodel_runtime.errors import (
    NotFound,
    StorageError,
)
from shardedmodel_runtime.storage import s3_writer
from shardedmodel_runtime.storage.s3_writer import S3Writer
from tests.builders.s3 import Client, make, refusal


def begun(monkeypatch: pytest.MonkeyPatch, **answers: list[Any]) -> tuple[S3Writer, Client]:
    """A multipart upload with one part of two, and what the server answers from then on."""
    client = Client(
        create_multipart_upload=[{"UploadId": "u"}], upload_part=[{"ETag": "1"}], **answers
    )
    writer = make(monkeypatch, client).open_writer("key", 8, 5)
    writer.write_part(0, b"01234")
    return writer, client


def test_a_lost_answer_to_the_completion_is_not_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(
        create_multipart_upload=[{"UploadId": "u"}],
        upload_part=[{"ETag": "1"}, {"ETag": "2"}],
        complete_multipart_upload=[refusal(500, "InternalError"), refusal(404, "NoSuchUpload")],
        head_object=[{"ContentLength": 8, "ETag": '"e"'}],
    )
    writer = make(monkeypatch, client).open_writer("key", 8, 5)
    writer.write_part(0, b"01234")
    writer.write_part(1, b"567")
    writer.commit()
    writer.abort()
    assert "abort_multipart_upload" not in [name for name, _ in client.calls]


def test_an_upload_that_was_lost_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(
        create_multipart_upload=[{"UploadId": "u"}],
        complete_multipart_upload=[refusal(404, "NoSuchUpload")],
        head_object=[{"ContentLength": 3, "ETag": '"older"'}],
    )
    client.answers["upload_part"] = [{"ETag": "1"}]
    writer = make(monkeypatch, client).open_writer("key", 8, 5)
    writer.write_part(0, b"01234")
    with pytest.raises(NotFound):
        writer.commit()


def test_parts_are_put_together_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(
        create_multipart_upload=[{"UploadId": "u"}],
        upload_part=[{"ETag": "second"}, {"ETag": "first"}],
        complete_multipart_upload=[{}],
    )
    writer = make(monkeypatch, client).open_writer("key", 8, 5)
    writer.write_part(1, b"567")
    writer.write_part(0, b"01234")
    writer.commit()
    parts = client.calls[-1][1]["MultipartUpload"]["Parts"]
    assert [item["ETag"] for item in parts] == ["first", "second"]


def test_an_upload_is_aborted_until_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_writer, "ABORT_SECONDS", 0.0)
    writer, client = begun(
        monkeypatch,
        abort_multipart_upload=[{}, {}],
        list_parts=[{"Parts": [{"PartNumber": 1}]}, refusal(404, "NoSuchUpload")],
    )
    writer.abort()
    writer.abort()
    assert [name for name, _ in client.calls].count("abort_multipart_upload") == 2


def test_who_may_abort_need_not_be_allowed_to_look(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer, _ = begun(
        monkeypatch, abort_multipart_upload=[{}], list_parts=[refusal(403, "AccessDenied")]
    )
    writer.abort()
    assert caplog.text == ""


def test_an_abort_that_fails_is_only_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer, _ = begun(monkeypatch, abort_multipart_upload=[refusal(403, "AccessDenied")])
    writer.abort()
    assert "is left behind" in caplog.text


def test_nothing_is_begun_before_the_first_part(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    make(monkeypatch, client).open_writer("key", 8, 5).abort()
    assert client.calls == []


def test_an_upload_that_is_just_being_begun_is_aborted_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client(abort_multipart_upload=[refusal(404, "NoSuchUpload")])
    writer = make(monkeypatch, client).open_writer("key", 8, 5)
    aborting = threading.Thread(target=writer.abort)

    def begin(**arguments: Any) -> dict[str, Any]:
        aborting.start()
        return {"UploadId": "u"}

    monkeypatch.setattr(client, "create_multipart_upload", begin, raising=False)
    client.answers["upload_part"] = [{"ETag": "1"}]
    writer.write_part(0, b"01234")
    aborting.join()
    assert ("abort_multipart_upload", "u") in [(n, a.get("UploadId")) for n, a in client.calls]


def test_a_part_that_comes_after_the_abort_begins_no_upload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client()
    writer = make(monkeypatch, client).open_writer("key", 8, 5)
    writer.abort()
    with pytest.raises(StorageError, match="key: its upload was dropped"):
        writer.write_part(0, b"01234")
    assert client.calls == []
