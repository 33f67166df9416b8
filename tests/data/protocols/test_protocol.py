"""Protocols: how many images are left, which, with which labels, and that they are the same whenever asked."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdbench.config.build import build
from kdbench.config.compose import compose_checked
from kdbench.data.images.image_io import fingerprint
from kdbench.data.protocols.protocol import Protocol, Subset
from kdbench.data.sources.cifar100_mini import cifar100_mini
from kdbench.data.sources.synthetic import fake, load_fake
from kdbench.runs.hydra_setup import register

register()

CLASSES = ("ant", "bee", "cat", "dog", "elk")
LABELS = torch.arange(200) % 5
ALL = torch.arange(200)


def applied(labels=LABELS, classes=CLASSES, kept=ALL, **options):
    return Protocol(**options).apply(labels, classes, kept)


def ready(**options):
    data = fake(**{"seed": 3, "batch_size": 10, "size": 8, "train": 120, "classes": 5, **options})
    data.setup()
    return data


def epoch_of(data, epoch: int = 1):
    return [data.train_batch(epoch, step) for step in range(data.steps_per_epoch)]


def shown(data, epoch: int = 1) -> list[tuple[int, ...]]:
    """What an epoch shows, without its order: image, label and view of each row."""
    return sorted(
        row
        for batch in epoch_of(data, epoch)
        for row in zip(
            batch.index.tolist(),
            batch.target.tolist(),
            batch.view.dy.tolist(),
            batch.view.dx.tolist(),
            batch.view.flip.tolist(),
            strict=True,
        )
    )


# ---- nothing asked for


def test_without_options_everything_is_as_it_is():
    training = applied()
    assert torch.equal(training.index, ALL)
    assert torch.equal(training.trained, ALL)
    assert training.occurrence.eq(0).all()
    assert training.shown.all()
    assert torch.equal(training.labels, LABELS)
    assert training.groups == {}
    assert Protocol().title(CLASSES) == ready().protocol == ""


# ---- few-shot


@given(st.floats(0.03, 1.0), st.integers(0, 9))
def test_stratified_takes_the_same_part_of_every_class(fraction, seed):
    training = applied(subset=Subset(fraction, seed=seed))
    counts = torch.bincount(LABELS[training.trained])
    assert len(training.trained) == len(training.index) == round(fraction * 200)
    assert counts.max() - counts.min() <= 1
    assert torch.equal(training.trained, training.trained.unique())


def test_a_larger_stratified_subset_holds_every_smaller_one():
    few, more = (set(applied(subset=Subset(share)).trained.tolist()) for share in (0.1, 0.3))
    assert few < more


def test_the_seed_chooses_the_images_of_a_stratified_subset():
    one, same, other = (applied(subset=Subset(0.1, seed=seed)).trained for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@given(st.floats(0.01, 1.0))
def test_first_takes_the_first_of_what_the_validation_cut_left(fraction):
    kept = ALL[ALL % 3 > 0]
    training = applied(kept=kept, subset=Subset(fraction, "first"))
    assert training.trained.tolist() == kept.tolist()[: round(fraction * len(kept))]


@pytest.mark.parametrize("mode", ["stratified", "first"])
def test_repeat_keeps_the_length_of_an_epoch(mode):
    """Slot j shows image j mod n for the (j div n)-th time: as the published runs index their data."""
    training = applied(subset=Subset(0.07, mode, repeat=True))
    images = training.trained.tolist()
    assert len(images) == 14
    assert training.index.tolist() == [images[slot % 14] for slot in range(200)]
    assert training.occurrence.tolist() == [slot // 14 for slot in range(200)]


def test_a_repeated_image_has_a_view_of_its_own_each_time():
    data = ready(subset=Subset(0.1, repeat=True), batch_size=50)
    rows = shown(data)
    assert (data.train_size, data.steps_per_epoch, len(rows)) == (12, 3, 120)
    assert {index for index, *_ in rows} == set(data.dataset_info.trained.tolist())
    assert len(set(rows)) > 90, "of 162 views each"


def test_an_epoch_of_few_images_is_short_unless_they_are_repeated():
    data = ready(subset=Subset(0.1))
    assert (data.train_size, data.steps_per_epoch) == (12, 2)
    assert [index for index, *_ in shown(data)] == data.dataset_info.trained.tolist()


def test_a_training_seed_sees_the_same_subset_unless_it_is_told_to():
    one, other = (ready(subset=Subset(0.1), seed=seed) for seed in (0, 1))
    assert torch.equal(one.dataset_info.trained, other.dataset_info.trained)
    assert epoch_of(one)[0].index.tolist() != epoch_of(other)[0].index.tolist()
    asked = ["dataset=fake", "dataset.subset.fraction=0.5", "dataset.subset.seed=${seed}", "seed=1"]
    moved = build(compose_checked("train", asked).dataset, seed=1, batch_size=8)
    assert moved._protocol.subset.seed == 1


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        (Subset(0.02), "of 200 images are 4, but stratified needs at least 5 .* a fraction of 0.025 or more"),
        (Subset(0.002, "first"), "are 0, but first needs at least 1: a fraction of 0.005"),
    ],
)
def test_too_few_images_are_refused(subset, message):
    with pytest.raises(ValueError, match=message):
        applied(subset=subset)


# ---- omitted classes


@pytest.mark.parametrize("subset", [Subset(), Subset(0.3), Subset(0.1, "first", repeat=True)])
@pytest.mark.parametrize("label_noise", [0.0, 0.5])
def test_both_ways_to_omit_show_the_same_samples_in_the_same_views(subset, label_noise):
    options = {"subset": subset, "label_noise": label_noise, "omit_classes": [4, "class1"], "imbalance": 2}
    in_advance, in_the_loop = ready(**options), ready(**options, omit="loop")
    for epoch in (1, 2):
        assert shown(in_advance, epoch) == shown(in_the_loop, epoch)
    assert in_the_loop.steps_per_epoch > in_advance.steps_per_epoch
    assert torch.equal(in_advance.dataset_info.trained, in_the_loop.dataset_info.trained)
    assert torch.equal(in_advance.dataset_info.labels, in_the_loop.dataset_info.labels)


def test_the_loop_takes_rows_out_of_the_batches_of_the_whole():
    """Brute force: the batches that there would be, less the rows of the omitted classes."""
    whole, left = ready(), ready(omit_classes=[1, 4], omit="loop")
    assert left.steps_per_epoch == whole.steps_per_epoch
    for epoch in (1, 2):
        for full, batch in zip(epoch_of(whole, epoch), epoch_of(left, epoch), strict=True):
            stay = (full.target != 1) & (full.target != 4)
            assert torch.equal(batch.index, full.index[stay])
            assert torch.equal(batch.inputs, full.inputs[stay])
            assert left.rows(epoch, batch.step, batch.step + 1) == int(stay.sum())


def test_a_batch_may_be_left_without_rows():
    data = ready(train=20, omit_classes=[0, 1, 2, 3], omit="loop", batch_size=2)
    rows = [len(batch.index) for batch in epoch_of(data)]
    assert sum(rows) == 4
    assert rows.count(0) >= 6
    assert data.rows(1, 0, data.steps_per_epoch) == 4
    assert data.steps_with_rows(1) == sum(map(bool, rows))


@pytest.mark.parametrize("omit", ["dataset", "loop"])
@pytest.mark.parametrize("label_noise", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("imbalance", [1.0, 5.0])
def test_no_label_and_no_image_of_an_omitted_class_is_ever_shown(omit, label_noise, repeat, imbalance):
    """Every batch of three epochs; noise may not bring an omitted label back, nor an omitted image in."""
    clean = load_fake(classes=5, train=120, size=8).train.labels
    data = ready(
        omit_classes=[1, 4],
        omit=omit,
        label_noise=label_noise,
        subset=Subset(0.5, repeat=repeat),
        imbalance=imbalance,
        validation=10,
    )
    for epoch in (1, 2, 3):
        for batch in epoch_of(data, epoch):
            assert not set(batch.target.tolist()) & {1, 4}
            assert not set(clean[batch.index].tolist()) & {1, 4}
    dataset_info = data.dataset_info
    assert not set(dataset_info.labels[dataset_info.trained].tolist()) & {1, 4}
    assert data.num_classes == dataset_info.num_classes == 5, "the classifier keeps its outputs"


def test_names_and_labels_omit_the_same():
    by_name, by_label = (Protocol(omit_classes=classes) for classes in (["elk", "bee"], [1, 4]))
    assert by_name.omitted(CLASSES) == by_label.omitted(CLASSES) == [1, 4]
    assert by_name.title(CLASSES) == "without classes 1, 4 (dataset)"


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([5], r"no class 5\. Possible: 0 to 4, or a name \(ant, bee, cat, \.\.\.\)"),
        ([-1], "no class -1"),
        (["bees"], "no class bees; did you mean bee"),
        ([1, "bee"], r"omit_classes=\[1,bee\]: give each class once"),
        ([0, 1, 2, 3, 4], "leaves 0 of 5 classes, which are too few"),
    ],
)
def test_wrong_classes_are_refused(classes, message):
    with pytest.raises(ValueError, match=message):
        Protocol(omit_classes=classes).omitted(CLASSES)


def test_where_the_classes_are_known_they_are_checked_before_anything_is_loaded(tmp_path):
    for options in (["dataset=cifar100"], ["dataset=cifar10"], ["dataset=fake"], ["dataset=cifar100_mini"]):
        cfg = compose_checked("train", [*options, "dataset.omit_classes=[unicorn]"])
        with pytest.raises(ValueError, match="no class unicorn"):
            build(cfg.dataset, seed=0, batch_size=8)
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
    cfg = compose_checked(
        "train", ["dataset=folder", f"dataset.path={tmp_path}", "dataset.omit_classes=[dogs]"]
    )
    with pytest.raises(ValueError, match="did you mean dog"):
        build(cfg.dataset, seed=0, batch_size=8)


def test_a_subset_of_omitted_classes_alone_is_refused():
    """As the first images of a folder are, whose files come class by class."""
    labels = torch.arange(5).repeat_interleave(40)
    with pytest.raises(
        ValueError, match=r"first-of-this-order 10 %; without classes 0 \(dataset\): no training image"
    ):
        applied(labels=labels, subset=Subset(0.1, "first"), omit_classes=[0])


# ---- long tail


@given(st.floats(1.0, 500.0), st.integers(0, 9))
def test_the_tail_has_its_profile_and_real_images(imbalance, seed):
    training = applied(imbalance=imbalance, imbalance_seed=seed)
    counts = torch.bincount(LABELS[training.trained], minlength=5).tolist()
    expected = [max(1, int(40 * (1 / imbalance) ** (c / 4))) for c in range(5)]
    assert counts == expected
    assert torch.equal(training.trained, training.trained.unique())


def test_the_imbalance_seed_chooses_the_images():
    one, same, other = (applied(imbalance=10, imbalance_seed=seed).trained for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.bincount(LABELS[one]).tolist() == torch.bincount(LABELS[other]).tolist()


def test_the_groups_of_a_long_tail_are_reported_without_the_omitted_classes():
    """Counts of 40, 22, 12, 7, 4: no class has more than 100, so the classes are cut into thirds."""
    assert applied(imbalance=10).groups == {"head": [0, 1], "medium": [2, 3], "tail": [4]}
    assert applied(imbalance=10, omit_classes=[4]).groups == {
        "omitted": [4],
        "kept": [0, 1, 2, 3],
        "head": [0, 1],
        "medium": [2],
        "tail": [3],
    }


def test_a_stratified_part_of_a_long_tail_keeps_every_class():
    training = applied(imbalance=10, subset=Subset(0.5))
    halves = torch.tensor([40, 22, 12, 7, 4]) / 2
    assert (torch.bincount(LABELS[training.trained]) - halves).abs().max() <= 1


# ---- label noise


@given(st.floats(0, 1), st.integers(0, 5))
def test_noise_replaces_a_label_by_another_one(rate, seed):
    labels = torch.arange(4000) % 5
    told = applied(labels=labels, kept=torch.arange(4000), label_noise=rate, label_noise_seed=seed).labels
    changed = (told != labels).double().mean().item()
    assert abs(changed - rate) < 5 * (rate * (1 - rate) / 4000) ** 0.5 + 1e-9


def test_each_other_class_is_as_likely():
    labels = torch.zeros(40_000, dtype=torch.int64)
    counts = torch.bincount(applied(labels=labels, kept=torch.arange(40_000), label_noise=1.0).labels)
    assert counts[0] == 0
    assert (counts[1:] - 10_000).abs().max() < 500


def test_an_image_has_the_same_noise_in_every_subset():
    whole = applied(label_noise=0.5).labels
    few = applied(label_noise=0.5, subset=Subset(0.2))
    assert torch.equal(few.labels[few.trained], whole[few.trained])
    others = torch.ones(200, dtype=torch.bool)
    others[few.trained] = False
    assert torch.equal(few.labels[others], LABELS[others])


def test_noise_stays_out_of_validation_test_and_the_fingerprint():
    data, splits = ready(label_noise=0.9, validation=20), load_fake(classes=5, train=120, size=8)
    held_out, test = data.eval_batch("validation", 0, 20), data.eval_batch("test", 0, 32)
    assert torch.equal(held_out.target, splits.train.labels[held_out.index])
    assert torch.equal(test.target, splits.test.labels)
    assert data.fingerprint == fingerprint(splits)
    batches = epoch_of(data)
    wrong = sum(int((batch.target != splits.train.labels[batch.index]).sum()) for batch in batches)
    assert 70 <= wrong <= 100
    assert torch.equal(data.dataset_info.labels[batches[0].index], batches[0].target)


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)])
def test_the_noise_seed_draws_the_labels(seed, same):
    first, other = (applied(label_noise=0.5, label_noise_seed=number).labels for number in (0, seed))
    assert torch.equal(first, other) == same


def test_noise_among_one_class_is_refused():
    with pytest.raises(ValueError, match="leaves 1 of 5 classes"):
        applied(label_noise=0.1, omit_classes=[0, 1, 2, 3])


# ---- all together


@pytest.mark.parametrize(
    ("options", "title"),
    [
        ({"subset": Subset(0.05)}, "stratified 5 % (seed 0)"),
        ({"subset": Subset(0.005, seed=3, repeat=True)}, "stratified 0.5 % (seed 3), repeated"),
        ({"subset": Subset(0.35, "first", repeat=True)}, "first-of-this-order 35 %, repeated"),
        ({"subset": Subset(1.0, "first", repeat=True)}, ""),
        ({"omit_classes": [4, 1], "omit": "loop"}, "without classes 1, 4 (loop)"),
        ({"imbalance": 100}, "imbalance 100 (seed 0)"),
        ({"label_noise": 0.4, "label_noise_seed": 2}, "label noise 40 % (seed 2)"),
        (
            {"label_noise": 0.4, "imbalance": 2.5, "omit_classes": ["ant"], "subset": Subset(0.5)},
            "imbalance 2.5 (seed 0); stratified 50 % (seed 0); without classes 0 (dataset); label noise 40 % (seed 0)",
        ),
    ],
)
def test_a_protocol_has_a_name_for_people(options, title):
    assert Protocol(**options).title(CLASSES) == title


def test_first_is_the_papers_on_the_authors_files_alone():
    protocol = Protocol(Subset(0.05, "first", repeat=True))
    assert protocol.title(CLASSES, authors_order=True) == "first 5 %, repeated"
    assert (
        Protocol(Subset(0.05, "first"), imbalance=2.0)
        .title(CLASSES, authors_order=True)
        .endswith("this-order 5 %")
    )
    mini = cifar100_mini(seed=0, batch_size=8, subset=Subset(0.05, "first"))
    mini.setup()
    assert mini.protocol == "first-of-this-order 5 %"


@given(
    st.builds(
        Subset,
        st.floats(0.3, 1.0),
        st.sampled_from(["stratified", "first"]),
        st.booleans(),
        st.integers(0, 3),
    ),
    st.lists(st.integers(0, 4), max_size=3, unique=True),
    st.sampled_from(["dataset", "loop"]),
    st.floats(1, 4),
    st.floats(0, 1),
    st.integers(0, 1),
)
def test_any_protocol_keeps_its_promises(subset, omit_classes, omit, imbalance, label_noise, cut):
    """The validation part is not touched, what is said to be trained on is shown, and nothing is drawn twice."""
    kept = ALL[cut * 30 :]
    options = {"subset": subset, "omit_classes": omit_classes, "omit": omit, "imbalance": imbalance}
    training = applied(kept=kept, label_noise=label_noise, **options)
    again = applied(kept=kept, label_noise=label_noise, **options)
    for name in ("index", "occurrence", "shown", "trained", "labels"):
        assert torch.equal(getattr(training, name), getattr(again, name))
    rows = training.index[training.shown]
    assert torch.equal(rows.unique(), training.trained)
    assert torch.isin(training.trained, kept).all()
    pairs = torch.stack([rows, training.occurrence[training.shown]])
    assert pairs.unique(dim=1).shape == pairs.shape
    assert torch.equal(training.labels[: cut * 30], LABELS[: cut * 30])
    assert not set(training.labels[rows].tolist()) & set(omit_classes)


@pytest.mark.parametrize(
    ("make", "wrong", "message"),
    [
        (Subset, {"fraction": 0.0}, r"subset.fraction must lie in \(0, 1\], got 0.0"),
        (Subset, {"fraction": 1.5}, "got 1.5"),
        (Subset, {"mode": "last"}, "subset.mode=last; possible: stratified, first"),
        (Protocol, {"omit": "never"}, "dataset.omit=never; possible: dataset, loop"),
        (
            Protocol,
            {"imbalance": 0.5},
            "imbalance is the largest class over the smallest, 1 or more, got 0.5",
        ),
        (Protocol, {"imbalance": float("inf")}, "got inf"),
        (Protocol, {"label_noise": 1.1}, r"probability in \[0, 1\], got 1.1"),
        (Protocol, {"label_noise": -0.1}, "got -0.1"),
    ],
)
def test_wrong_options_are_refused_at_once(make, wrong, message):
    with pytest.raises(ValueError, match=message):
        make(**wrong)
