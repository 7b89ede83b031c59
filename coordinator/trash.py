"""The trash: datasets that were removed and can be had again for some days. Transactions as values; no I/O, no clock.

`trash/<t>` is put in the transaction that deletes the spec. When the holder has given the dataset up, its tenure goes
to the name <t>, which has no spec, so that nobody uses it; the old name is free. Undeleting takes the tenure back under
any name. Emptying makes of <t> a dataset whose deleted spec said reclaim: delete: the protocol does the rest.
"""

from __future__ import annotations

from drover.coordinator.keys import Keys
from drover.coordinator.record import Record
from drover.coordinator.records import Answers, State, Tenure, Trashed
from drover.coordinator.specs import DatasetSpec
from drover.coordinator.txn import Delete, Entry, Put, Txn, absent, unchanged


def name_in_trash(uid: str) -> str:
    """A name that no other data ever has."""
    return f"trash-{uid[:24]}"


def lay_aside(keys: Keys, trash: Entry, trashed: Trashed, owner: Entry, tenure: Tenure, txn: str) -> Txn:
    """The tenure of a dataset that was given up and has no spec goes to the trash's name. Raises ValueError where
    somebody has it, or it is other data."""
    if tenure.state is not State.RELEASED or tenure.uid != trashed.uid:
        raise ValueError(f"{trashed.dataset} cannot be laid aside: {tenure.state}, uid {tenure.uid}")
    aside = name_in_trash(trashed.uid)
    gone = {
        "state": State.DESTROYED,
        "born": False,
        "object": "",
        "trash": aside,
        "because": f"in the trash as {aside}",
    }
    return Txn(
        compare=(
            unchanged(trash.key, trash),
            unchanged(owner.key, owner),
            absent(keys.dataset(trashed.dataset)),
            absent(keys.owner(aside)),
        ),
        then=(
            Put(keys.owner(aside), _copy(tenure, reclaim="retain", because="in the trash", txn=txn)),
            Put(owner.key, _copy(tenure, **gone, txn=txn)),
            Delete(keys.status(trashed.dataset)),
        ),
    )


def take_back(
    keys: Keys,
    trash: Entry,
    trashed: Trashed,
    aside: Entry,
    tenure: Tenure,
    name: str,
    there: Entry | None,
    before: Tenure | None,
    wish: tuple[Put, ...],
    txn: str,
) -> Txn:
    """The dataset is there again, under `name`. there, before: the tenure that this name has, whose data is gone. wish:
    where it should be. `created` is 0: it belongs to the spec that is put with it."""
    back = _copy(
        tenure,
        created=0,
        epoch=max(tenure.epoch, before.epoch if before else 0),
        reclaim=trashed.spec.reclaim,
        answers=Answers(),
        because="taken out of the trash",
        txn=txn,
    )
    return Txn(
        compare=(
            unchanged(trash.key, trash),
            unchanged(aside.key, aside),
            absent(keys.dataset(name)),
            unchanged(keys.owner(name), there),
        ),
        then=(
            Put(keys.dataset(name), _spec(trashed.spec)),
            Put(keys.owner(name), back),
            *(wish or (Delete(keys.desired(name)),)),
            Delete(aside.key),
            Delete(trash.key),
            Delete(keys.status(name_in_trash(trashed.uid))),
        ),
    )


def empty(trash: Entry, aside: Entry, tenure: Tenure, txn: str) -> Txn:
    """Its data is to be destroyed."""
    doomed = Put(aside.key, _copy(tenure, reclaim="delete", because="its time in the trash is over", txn=txn))
    return Txn(compare=(unchanged(trash.key, trash), unchanged(aside.key, aside)), then=(doomed, Delete(trash.key)))


def _copy(tenure: Tenure, **changes: object) -> bytes:
    return tenure.model_copy(update=changes).encode()


def _spec(spec: Record) -> bytes:
    assert isinstance(spec, DatasetSpec)
    return spec.model_dump_json(exclude_defaults=True).encode()
