"""Versions, compare-and-swap, idempotency, deletion, and what survives a restart."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ramole.adapters.store import manifests
from ramole.adapters.store.catalog import Catalog, TenantUsage
from ramole.adapters.store.records import AdapterRecord, NewAdapter, Removal, State
from ramole.adapters.store.store import Opened, Store
from ramole.core.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Unavailable,
    WrongState,
)
from ramole.core.names import AdapterName, AdapterRef
from support.canary import CANARY, check_silent, overheard
from support.new_adapter import new_adapter

New = Callable[..., NewAdapter]


def name(text: str) -> AdapterName:
    return AdapterName.parse(text, tenant="default")


def publish(store: Store, upload: NewAdapter) -> AdapterRecord:
    return store.publish(store.put(upload)[0].ref)


def listed(store: Store) -> list[str]:
    return [str(record.ref) for record in store.page(None, 1000, lambda _: True)]


def reopened(store: Store, place: Any) -> Store:
    store.close()
    opened: Store = place.open()
    return opened


def test_staged_is_hidden_until_published(store: Store, new: New) -> None:
    record, is_created = store.put(new())
    assert is_created
    assert (str(record.ref), record.is_live) == ("default/math@1", False)
    assert listed(store) == []
    with pytest.raises(NotFound):
        store.get(name("math"))
    assert store.publish(record.ref).is_live
    assert store.publish(record.ref).is_live
    assert store.get(name("math")) == store.get(name("math@1"))
    assert store.with_samples(store.get(name("math"))) == store.publish(record.ref) == record.published()
    content = store.read(record.ref.digest)
    assert (content.config_json, content.tensors) == (b"{}", b"a")


def test_versions_count_up_and_the_latest_live_one_answers(store: Store, new: New) -> None:
    first, second = publish(store, new(content="a")), publish(store, new(content="b"))
    staged, _ = store.put(new(content="c"))
    assert [r.ref.version for r in (first, second, staged)] == [1, 2, 3]
    assert store.get(name("math")).ref == second.ref
    assert store.get(name("math@1")).ref == first.ref


def test_same_content_again_is_the_same_version(store: Store, new: New) -> None:
    first = publish(store, new())
    again, is_created = store.put(new())
    assert (again, is_created) == (first, False), "with its samples, too"
    other_samples, is_created = store.put(new(samples=("2 + 2",)))
    assert is_created, "an upload with other samples must not be swallowed"
    assert other_samples.ref.version == 2
    assert other_samples.ref.digest == first.ref.digest


def test_idempotency_key(store: Store, place: Any, new: New) -> None:
    first, _ = store.put(new(key="k"))
    assert store.put(new(key="k")) == (first, False)
    store.publish(first.ref)
    publish(store, new(content="b"))
    assert store.put(new(key="k"))[0].ref == first.ref, "also when a later version exists"
    for other in (new(content="c", key="k"), new(name="other", key="k"), new(key="k", samples=("x",))):
        with pytest.raises(AlreadyExists):
            store.put(other)
    assert store.put(new(name="elsewhere/math", content="z", key="k"))[1], "keys belong to a tenant"
    again = reopened(store, place)
    assert again.put(new(key="k"))[0].ref == first.ref
    again.delete(name("math@1"))
    assert again.put(new(content="c", key="k"))[1], "a deleted version frees its key"
    again.close()


def test_compare_and_swap(store: Store, new: New) -> None:
    publish(store, new(expected=0))
    with pytest.raises(Conflict):
        store.put(new(content="b", expected=0))
    with pytest.raises(Conflict):
        store.put(new(content="b", expected=2))
    winner, _ = store.put(new(content="b", expected=1))
    loser, _ = store.put(new(content="c", expected=1))
    store.publish(winner.ref)
    with pytest.raises(Conflict):
        store.publish(loser.ref)
    store.discard(loser.ref)
    assert store.get(name("math")).ref == winner.ref


def test_only_one_of_many_writers_wins(store: Store, new: New) -> None:
    uploads = [new(content=f"c{i}", expected=0) for i in range(16)]

    def attempt(upload: NewAdapter) -> bool:
        try:
            publish(store, upload)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, uploads)) == 1
    assert len(listed(store)) == 1


def test_discard(store: Store, place: Any, new: New) -> None:
    record, _ = store.put(new())
    store.discard(record.ref)
    store.discard(record.ref)
    assert place.objects == set()
    with pytest.raises(NotFound):
        store.publish(record.ref)
    live = publish(store, new())
    assert live.ref.version == 2
    with pytest.raises(WrongState):
        store.discard(live.ref)


def test_delete_frees_content_that_nobody_else_has(store: Store, place: Any, new: New) -> None:
    publish(store, new("math", "a"))
    publish(store, new("math", "b"))
    shared = publish(store, new("sums", "a"))
    assert [str(ref) for ref in store.delete(name("math"))] == ["default/math@1", "default/math@2"]
    assert place.objects == {shared.ref.digest}
    assert listed(store) == ["default/sums@1"]
    store.delete(name("sums@1"))
    assert place.objects == set()
    for gone in ("math", "math@1", "sums", "never"):
        with pytest.raises(NotFound):
            store.delete(name(gone))
    with pytest.raises(NotFound):
        store.read(shared.ref.digest)


def test_numbers_are_never_reused(store: Store, place: Any, new: New) -> None:
    for content in "abc":
        publish(store, new(content=content))
    store.delete(name("math@3"))
    store.delete(name("math@1"))
    assert store.put(new(content="d"))[0].ref.version == 4
    again = reopened(store, place)
    assert again.put(new(content="e"))[0].ref.version == 4, "it was never live, and nobody was told of it"
    again.delete(name("math@2"))
    last = reopened(again, place)
    assert last.put(new(content="f"))[0].ref.version == 4
    last.close()


def test_publish_needs_the_right_digest(store: Store, new: New) -> None:
    record, _ = store.put(new())
    with pytest.raises(NotFound):
        store.publish(AdapterRef("default", "math", 1, "0" * 64))
    assert not store.get(name("math@1")).is_live
    assert store.publish(record.ref).is_live


def test_restart_keeps_live_and_drops_the_rest(store: Store, place: Any, new: New) -> None:
    live = publish(store, new(content="a", key="k", samples=("ä", "two")))
    store.put(new(content="b"))
    place.files.write(f"objects/ab/ab{'0' * 62}/adapter_config.json", b"half an object")
    (place.folder / "scratch" / "half").write_bytes(b"x")
    again = reopened(store, place)
    assert again.opened == Opened(num_live=1, num_read=1)
    assert [again.with_samples(record) for record in again.page(None, 9, lambda _: True)] == [live]
    assert again.sweep() == 2
    assert place.objects == {live.ref.digest}
    assert list((place.folder / "scratch").iterdir()) == []
    again.close()


def test_a_start_reads_only_manifests_that_it_does_not_know(store: Store, place: Any, new: New) -> None:
    for number in range(4):
        publish(store, new(f"n{number}", f"c{number}"))
    store.save_catalog()
    publish(store, new("n9", "c9"))
    store.delete(name("n0"))
    before = listed(store)
    again = reopened(store, place)
    assert (again.opened.num_live, again.opened.num_read) == (4, 1)
    assert listed(again) == before
    again.save_catalog()
    third = reopened(again, place)
    assert (third.opened.num_read, listed(third)) == (0, before)
    third.save_catalog()
    for damaged in (b"", b"{", b"[]", b'{"format": 2, "records": [{}]}', b'{"format": 3, "records": 1}'):
        third.close()
        place.files.write("catalog.json", damaged)
        third = place.open()
        assert (third.opened.num_read, listed(third)) == (4, before)
    third.close()


def test_records_in_memory_are_as_those_on_disk(store: Store, place: Any, new: New) -> None:
    record = publish(store, new(samples=("x", "y"), key="k", expected=0))
    assert record.num_samples == 2
    for _ in range(2):
        store = reopened(store, place)
        assert store.get(name("math")) == replace(record, samples=())
        assert store.with_samples(store.get(name("math"))) == record
        store.save_catalog()
    store.close()


def test_what_is_said_of_a_damaged_manifest_quotes_none_of_its_samples(store: Store, place: Any, new: New) -> None:
    publish(store, new("math", "a"))
    manifest = "manifests/default/math/1.json"
    raw = json.loads(place.files.read(manifest))
    place.files.write(manifest, json.dumps(raw | {"samples": [{CANARY: 1}, CANARY]}).encode())
    with overheard() as heard:
        again = reopened(store, place)
    assert again.opened.num_unreadable == 1
    assert f"{manifest} is unreadable" in heard.text()
    check_silent(heard.text())
    again.close()


def test_an_unreadable_manifest_is_left_alone(store: Store, place: Any, new: New) -> None:
    publish(store, new("math", "a"))
    kept = publish(store, new("sums", "b"))
    manifest = "manifests/default/math/1.json"
    place.files.write(manifest, b"{}")
    place.files.write("manifests/default/math/note.txt", b"somebody was here")
    again = reopened(store, place)
    assert again.opened == Opened(num_live=1, num_read=2, num_unreadable=2)
    assert listed(again) == ["default/sums@1"]
    assert place.files.read(manifest) == b"{}"
    assert again.sweep() == 0
    assert len(place.objects) == 2, "its content may be needed when the manifest is restored"
    assert again.read(kept.ref.digest).tensors == b"b"
    assert again.put(new("math", "c"))[0].ref.version == 2, "its number is not given again"
    again.close()


def test_an_interrupted_removal_is_finished(store: Store, place: Any, new: New) -> None:
    publish(store, new())
    manifest = place.files.read("manifests/default/math/1.json")
    store.delete(name("math"))
    place.files.write("manifests/default/math/1.json", manifest)
    again = reopened(store, place)
    assert again.opened == Opened(num_finished=1)
    assert listed(again) == []
    with pytest.raises(FileNotFoundError):
        place.files.read("manifests/default/math/1.json")
    again.close()


def test_corrupt_content_is_noticed(store: Store, place: Any, new: New) -> None:
    record = publish(store, new())
    key = f"objects/{record.ref.digest[:2]}/{record.ref.digest}/adapter_model.safetensors"
    place.files.write(key, b"A")
    with pytest.raises(Corrupt):
        store.read(record.ref.digest)
    place.files.remove(key)
    with pytest.raises(Corrupt):
        store.read(record.ref.digest)
    place.files.write("manifests/default/math/1.json", b"[]")
    with pytest.raises(Corrupt):
        store.with_samples(store.get(name("math")))


def test_one_process_at_a_time(store: Store, place: Any) -> None:
    with pytest.raises(Unavailable):
        place.open()
    reopened(store, place).close()


def test_a_server_elsewhere_takes_over(s3_place: Any, tmp_path: Path, new_at: Any) -> None:
    old = s3_place.open()
    acknowledged = publish(old, new_at(s3_place, "math", "a"))
    staged, _ = old.put(new_at(s3_place, "math", "b"))
    there = s3_place.elsewhere(tmp_path / "elsewhere")
    taker = there.open()
    s3_place.files.write(f"objects/ab/ab{'0' * 62}/adapter_config.json", b"the taker's, as far as the old one knows")
    assert listed(taker) == [str(acknowledged.ref)]
    for change in (lambda: old.publish(staged.ref), lambda: old.delete(name("math")), old.sweep):
        with pytest.raises(Unavailable, match="another server"):
            change()
    assert old.read(acknowledged.ref.digest).tensors == b"a", "it can still be read"
    taker.sweep()
    again = publish(taker, new_at(there, "math", "b"))
    assert again.ref == staged.ref
    old.close()
    taker.close()


def test_a_server_that_was_replaced_destroys_nothing(s3_place: Any, tmp_path: Path, new_at: Any) -> None:
    old = s3_place.open()
    staged, _ = old.put(new_at(s3_place, "math", "a"))
    there = s3_place.elsewhere(tmp_path / "elsewhere")
    taker = there.open()
    live = publish(taker, new_at(there, "math", "a"))
    other = publish(taker, new_at(there, "sums", "b"))
    assert live.ref == staged.ref, "the same number and content, made twice"
    with suppress(Unavailable):
        old.discard(staged.ref)
    with suppress(Conflict, Unavailable):
        old.put(new_at(s3_place, "sums", "b", expected=7))
    old.close()
    taker.close()
    last = there.open()
    assert listed(last) == [str(live.ref), str(other.ref)]
    assert [last.read(ref.digest).tensors for ref in (live.ref, other.ref)] == [b"a", b"b"]
    last.close()


def test_a_server_that_was_replaced_follows(s3_place: Any, tmp_path: Path, new_at: Any) -> None:
    old = s3_place.open()
    kept, gone = (publish(old, new_at(s3_place, name, name)) for name in ("kept", "gone"))
    staged, _ = old.put(new_at(s3_place, "late", "mine"))
    assert not old.follow(), "it is the writer itself"
    there = s3_place.elsewhere(tmp_path / "elsewhere")
    taker = there.open()
    late = publish(taker, new_at(there, "late", "theirs"))
    taker.revoke(gone.name)
    assert listed(old) == [str(gone.ref), str(kept.ref)]
    assert old.follow()
    assert listed(old) == listed(taker) == [str(kept.ref), str(late.ref)]
    assert old.get(late.name) == taker.get(late.name)
    assert old.read(late.ref.digest).tensors == b"theirs"
    assert old.with_samples(old.get(late.name)).samples
    with pytest.raises(Unavailable, match="another server"):
        old.publish(staged.ref)
    for change in (old.check_writer, lambda: old.put(new_at(s3_place, "more", "a"))):
        with pytest.raises(Unavailable, match="another server"):
            change()
    assert old.follow()
    old.close()
    taker.close()


def test_a_revoked_content_goes_under_every_name_and_stays_out(store: Store, place: Any, new: New) -> None:
    publish(store, new("math", "a"))
    publish(store, new("math", "b"))
    publish(store, new("sums", "a"))
    theirs = publish(store, new("beta/math", "a"))
    staged, _ = store.put(new("late", "a"))
    gone = store.revoke(name("math@1"), comment="leaks")
    assert [str(ref) for ref in gone] == ["default/math@1", "default/sums@1"]
    assert listed(store) == ["beta/math@1", "default/math@2"]
    assert store.read(theirs.ref.digest).tensors == b"a"
    for _ in range(2):
        with pytest.raises(WrongState, match="revoked") as refused:
            store.put(new("again", "a"))
        assert refused.value.remedy
        store = reopened(store, place)
    with pytest.raises(NotFound):
        store.publish(staged.ref)
    assert {entry.comment for entry in store.history(name("sums")) if isinstance(entry, Removal)} == {"leaks"}
    store.close()


def test_a_revocation_during_an_upload_stops_it(store: Store, new: New) -> None:
    publish(store, new("math", "a"))
    staged, _ = store.put(new("sums", "a"))
    store.revoke(name("math"))
    with pytest.raises(WrongState, match="revoked"):
        store.publish(staged.ref)
    store.discard(staged.ref)
    assert listed(store) == []


def test_a_start_finishes_a_revocation(store: Store, place: Any, new: New) -> None:
    live = publish(store, new("math", "a"))
    store.close()
    place.files.write(f"revoked/default/{live.ref.digest}", b"leaks")
    store = place.open()
    assert listed(store) == []
    [gone] = store.history(name("math"))
    assert isinstance(gone, Removal)
    assert (gone.reason, gone.comment) == ("revoked", "leaks")
    store.close()


def test_what_nobody_publishes_is_dropped_after_a_while(store: Store, place: Any, new: New) -> None:
    live = publish(store, new("math", "a", key="k"))
    staged, _ = store.put(new("math", "b", key="l"))
    assert store.discard_forgotten(timedelta(hours=1)) == []
    assert store.discard_forgotten(timedelta(0)) == [staged.ref]
    assert place.objects == {live.ref.digest}
    assert store.put(new("math", "c", key="l"))[1], "its key is free again"


def test_an_upload_whose_content_another_one_uses_frees_nothing(store: Store, place: Any, new: New) -> None:
    live = publish(store, new("math", "a"))
    other, _ = store.put(new("sums", "a"))
    store.discard(other.ref)
    with pytest.raises(Conflict):
        store.put(new("sums", "a", expected=7))
    assert place.objects == {live.ref.digest}
    store.delete(name("math"))
    with pytest.raises(Conflict):
        store.put(new("sums", "a", expected=7))
    assert place.objects == set()


def test_rolling_back_makes_a_new_version(store: Store, place: Any, new: New) -> None:
    first = publish(store, new(content="a", samples=("x", "y"), key="k"))
    second = publish(store, new(content="b"))
    staged, is_created = store.restage(name("math@1"), expected_version=2)
    assert is_created
    assert (staged.ref.version, staged.ref.digest, staged.samples) == (3, first.ref.digest, ("x", "y"))
    assert store.get(name("math")).ref == second.ref, "until it is published"
    live = store.publish(staged.ref)
    assert (live.source, live.idempotency_key) == ("default/math@1", "")
    assert store.restage(name("math@1")) == (live, False), "a second try finds what the first one made"
    store = reopened(store, place)
    assert store.with_samples(store.get(name("math"))) == live
    assert store.put(new(content="a", samples=("x", "y"), key="k"))[0].ref == first.ref, "the key stays with version 1"
    store.delete(name("math@1"))
    assert store.read(live.ref.digest).tensors == b"a"
    for wrong in ("math@1", "math@9", "other@1"):
        with pytest.raises(NotFound):
            store.restage(name(wrong))
    with pytest.raises(InvalidInput):
        store.restage(name("math"))
    with pytest.raises(Conflict):
        store.restage(name("math@2"), expected_version=2)
    store.close()


def test_a_deletion_may_expect_a_version(store: Store, new: New) -> None:
    publish(store, new(content="a"))
    publish(store, new(content="b"))
    for wrong in (0, 1, 3):
        for which in ("math", "math@1", "math@2"):
            with pytest.raises(Conflict):
                store.delete(name(which), expected_version=wrong)
    assert [ref.version for ref in store.delete(name("math@1"), expected_version=2)] == [1]
    assert [ref.version for ref in store.delete(name("math"), expected_version=2)] == [2]


def test_history_tells_of_versions_that_are_gone(store: Store, place: Any, new: New) -> None:
    for content in "abc":
        publish(store, new(content=content))
    publish(store, new("mathematics", "a"))
    store.put(new(content="staged"))
    store.revoke(name("math@2"), comment="leaks")
    for _ in range(2):
        versions = store.history(name("math"))
        assert [str(version.ref) for version in versions] == ["default/math@3", "default/math@2", "default/math@1"]
        gone = versions[1]
        assert isinstance(gone, Removal)
        assert (gone.reason, gone.comment, gone.removed_at > gone.created_at) == ("revoked", "leaks", True)
        store = reopened(store, place)
    with pytest.raises(NotFound):
        store.history(name("never"))
    store.close()


def test_history_is_not_endless(store: Store, place: Any, new: New, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in "abcde":
        publish(store, new(content=content))
        store.delete(name("math"))
    monkeypatch.setattr(manifests, "MAX_HISTORY", 2)
    store = reopened(store, place)
    assert [version.ref.version for version in store.history(name("math"))] == [5, 4]
    assert store.put(new())[0].ref.version == 6
    store.close()


def test_retention_never_takes_the_latest(store: Store, new: New) -> None:
    for content in "abcd":
        publish(store, new(content=content))
    publish(store, new("sums", "a"))
    store.put(new(content="staged"))
    assert store.expire(keep_versions=0, keep_days=0) == []
    assert store.expire(keep_versions=3, keep_days=1, name=name("sums")) == []
    assert [str(ref) for ref in store.expire(keep_versions=3, keep_days=1)] == ["default/math@1"]
    assert listed(store) == ["default/math@2", "default/math@3", "default/math@4", "default/sums@1"]
    assert [str(ref) for ref in store.expire(keep_versions=0, keep_days=1e-9)] == ["default/math@2", "default/math@3"]
    assert listed(store) == ["default/math@4", "default/sums@1"]
    assert {v.reason for v in store.history(name("math")) if isinstance(v, Removal)} == {"expired"}


def test_usage_counts_names_and_different_content(store: Store, place: Any, new: New) -> None:
    told: list[TenantUsage] = []

    def usage(upload: NewAdapter) -> tuple[int, int]:
        record, _ = store.put(upload, told.append)
        store.publish(record.ref)
        return told[-1].num_adapters, told[-1].num_bytes

    assert usage(new(content="aaaa")) == (1, 6)
    assert usage(new("math", "bb")) == (1, 10)
    assert usage(new("sums", "bb")) == (2, 10), "content that is there already costs nothing"
    assert usage(new("t/sums", "bb")) == (1, 4), "but another tenant pays for its own"
    store = reopened(store, place)
    assert store.usage_with(name("sums")) == TenantUsage(2, 10)
    store.delete(name("math"))
    assert store.usage_with(name("sums")) == TenantUsage(1, 4)
    store.delete(name("sums"))
    assert store.usage_with(name("sums")) == TenantUsage(1, 0)

    def refuse(usage: TenantUsage) -> None:
        raise LimitExceeded("enough")

    with pytest.raises(LimitExceeded):
        store.put(new("new", "zzz"), refuse)
    assert store.usage_with(name("x")) == TenantUsage(1, 0)
    assert len(place.objects) == 1
    store.close()


def test_pages_are_ordered_and_survive_changes_between_them(store: Store, new: New) -> None:
    for adapter in ("b", "a", "c", "t/a"):
        publish(store, new(adapter, adapter))
    publish(store, new("a", "a2"))
    order = ["default/a@1", "default/a@2", "default/b@1", "default/c@1", "t/a@1"]
    assert listed(store) == order
    first = store.page(None, 2, lambda _: True)
    store.delete(name("a@2"))
    publish(store, new("bb", "bb"))
    ref = first[-1].ref
    rest = store.page((ref.tenant, ref.name, ref.version), 9, lambda _: True)
    assert [str(r.ref) for r in rest] == ["default/b@1", "default/bb@1", "default/c@1", "t/a@1"]
    assert [str(r.ref) for r in store.page(None, 9, lambda r: r.ref.tenant == "t")] == ["t/a@1"]


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_the_index_must_hold_is_counted_through_every_change(data: st.DataObject, tmp_path: Path) -> None:
    """Against a count of all names."""
    catalog = Catalog()
    template = new_adapter("math", "a", tmp_path / "none").staged(1)
    held: dict[AdapterRef, AdapterRecord] = {}
    for _ in range(data.draw(st.integers(1, 15))):
        if held and data.draw(st.booleans()):
            ref = data.draw(st.sampled_from(sorted(held, key=str)))
            catalog.remove(ref)
            del held[ref]
        else:
            number, name = data.draw(st.integers(1, 3)), data.draw(st.sampled_from("ab"))
            state = data.draw(st.sampled_from(State))
            ref = replace(template.ref, name=name, version=number)
            held[ref] = replace(template, ref=ref, state=state, num_samples=data.draw(st.integers(0, 1)))
            catalog.put(held[ref])
        live = [record for record in held.values() if record.is_live]
        latest = {record.name: record for record in sorted(live, key=lambda record: record.ref.version)}
        assert catalog.num_findable == sum(record.num_samples > 0 for record in latest.values())
        assert catalog.num_versions == len(held)
