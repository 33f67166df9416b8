"""Protocols: which images remain, with which labels, and that repeated calls agree."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdbench.config.build import build
from kdbench.data.images.image_io import fingerprint
from kdbench.data.protocols.protocol import Protocol, Subset
from kdbench.data.sources.cifar100_mini import cifar100_mini
from kdbench.data.sources.synthetic import fake, load_fake
from kdbench.runs.hydra_setup import register
from tests.helpers.composition import compose_checked

register()

CLASSES = ("ant", "bee", "cat", "dog", "elk")
LABELS = torch.arange(200) % 5
ALL = torch.arange(200)


def apply(labels=LABELS, classes=CLASSES, available=ALL, **options):
    return Protocol(**options).apply(labels, classes, available)


def make_data(**options):
    data = fake(**{"seed": 3, "batch_size": 10, "size": 8, "train": 120, "classes": 5, **options})
    data.setup()
    return data


def epoch_of(data, epoch: int = 1):
    return [data.train_batch(epoch, step) for step in range(data.steps_per_epoch)]


def rows_of(data, epoch: int = 1) -> list[tuple[int, ...]]:
    """Return image, label and view of each row of an epoch, sorted."""
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


# ---- defaults


def test_default_protocol_changes_nothing():
    training = apply()
    assert torch.equal(training.index, ALL)
    assert torch.equal(training.subset, ALL)
    assert training.occurrence.eq(0).all()
    assert training.is_shown.all()
    assert torch.equal(training.labels, LABELS)
    assert training.groups == {}
    assert Protocol().title(CLASSES) == make_data().protocol == ""


# ---- few-shot


@given(st.floats(0.03, 1.0), st.integers(0, 9))
def test_stratified_subset_has_the_same_fraction_of_every_class(fraction, seed):
    training = apply(subset=Subset(fraction, seed=seed))
    counts = torch.bincount(LABELS[training.subset])
    assert len(training.subset) == len(training.index) == round(fraction * 200)
    assert counts.max() - counts.min() <= 1
    assert torch.equal(training.subset, training.subset.unique())


def test_larger_stratified_subsets_contain_smaller_ones():
    few, more = (set(apply(subset=Subset(share)).subset.tolist()) for share in (0.1, 0.3))
    assert few < more


def test_seed_determines_the_stratified_subset():
    one, same, other = (apply(subset=Subset(0.1, seed=seed)).subset for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@given(st.floats(0.01, 1.0))
def test_first_subset_is_a_prefix_of_the_available_images(fraction):
    available = ALL[ALL % 3 > 0]
    training = apply(available=available, subset=Subset(fraction, "first"))
    assert training.subset.tolist() == available.tolist()[: round(fraction * len(available))]


@pytest.mark.parametrize("mode", ["stratified", "first"])
def test_repeat_keeps_the_length_of_an_epoch(mode):
    """Slot j shows image j mod n for the (j div n)-th time, as published runs index their data."""
    training = apply(subset=Subset(0.07, mode, repeat=True))
    images = training.subset.tolist()
    assert len(images) == 14
    assert training.index.tolist() == [images[slot % 14] for slot in range(200)]
    assert training.occurrence.tolist() == [slot // 14 for slot in range(200)]


def test_repeated_images_get_new_views():
    data = make_data(subset=Subset(0.1, repeat=True), batch_size=50)
    rows = rows_of(data)
    assert (data.train_size, data.steps_per_epoch, len(rows)) == (12, 3, 120)
    assert {index for index, *_ in rows} == set(data.dataset_info.trained.tolist())
    assert len(set(rows)) > 90, "of 162 views each"


def test_epoch_of_a_subset_is_short_without_repeat():
    data = make_data(subset=Subset(0.1))
    assert (data.train_size, data.steps_per_epoch) == (12, 2)
    assert [index for index, *_ in rows_of(data)] == data.dataset_info.trained.tolist()


def test_subset_does_not_depend_on_the_training_seed_by_default():
    one, other = (make_data(subset=Subset(0.1), seed=seed) for seed in (0, 1))
    assert torch.equal(one.dataset_info.trained, other.dataset_info.trained)
    assert epoch_of(one)[0].index.tolist() != epoch_of(other)[0].index.tolist()
    overrides = ["dataset=fake", "dataset.subset.fraction=0.5", "dataset.subset.seed=${seed}", "seed=1"]
    linked = build(compose_checked("train", overrides).dataset, seed=1, batch_size=8)
    assert linked._protocol.subset.seed == 1


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        (
            Subset(0.02),
            "of 200 images are 4, but stratified needs at least 5 .* use a fraction of 0.025 or more",
        ),
        (Subset(0.002, "first"), "are 0, but first needs at least 1: use a fraction of 0.005"),
    ],
)
def test_too_small_subsets_are_refused(subset, message):
    with pytest.raises(ValueError, match=message):
        apply(subset=subset)


# ---- omitted classes


@pytest.mark.parametrize("subset", [Subset(), Subset(0.3), Subset(0.1, "first", repeat=True)])
@pytest.mark.parametrize("label_noise", [0.0, 0.5])
def test_both_ways_to_omit_show_the_same_rows(subset, label_noise):
    options = {"subset": subset, "label_noise": label_noise, "omit_classes": [4, "class1"], "imbalance": 2}
    in_dataset, in_loop = make_data(**options), make_data(**options, omit="loop")
    for epoch in (1, 2):
        assert rows_of(in_dataset, epoch) == rows_of(in_loop, epoch)
    assert in_loop.steps_per_epoch > in_dataset.steps_per_epoch
    assert torch.equal(in_dataset.dataset_info.trained, in_loop.dataset_info.trained)
    assert torch.equal(in_dataset.dataset_info.labels, in_loop.dataset_info.labels)


def test_omit_loop_removes_rows_from_the_original_batches():
    whole, reduced = make_data(), make_data(omit_classes=[1, 4], omit="loop")
    assert reduced.steps_per_epoch == whole.steps_per_epoch
    for epoch in (1, 2):
        for full, batch in zip(epoch_of(whole, epoch), epoch_of(reduced, epoch), strict=True):
            remains = (full.target != 1) & (full.target != 4)
            assert torch.equal(batch.index, full.index[remains])
            assert torch.equal(batch.inputs, full.inputs[remains])
            assert reduced.rows(epoch, batch.step, batch.step + 1) == int(remains.sum())


def test_omit_loop_can_leave_empty_batches():
    data = make_data(train=20, omit_classes=[0, 1, 2, 3], omit="loop", batch_size=2)
    rows = [len(batch.index) for batch in epoch_of(data)]
    assert sum(rows) == 4
    assert rows.count(0) >= 6
    assert data.rows(1, 0, data.steps_per_epoch) == 4
    assert data.steps_with_rows(1) == sum(map(bool, rows))


@pytest.mark.parametrize("omit", ["dataset", "loop"])
@pytest.mark.parametrize("label_noise", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("imbalance", [1.0, 5.0])
def test_omitted_classes_never_appear_as_image_or_label(omit, label_noise, repeat, imbalance):
    """Label noise must not bring an omitted class back."""
    clean = load_fake(classes=5, train=120, size=8).train.labels
    data = make_data(
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


def test_classes_can_be_omitted_by_name_or_label():
    by_name, by_label = (Protocol(omit_classes=classes) for classes in (["elk", "bee"], [1, 4]))
    assert by_name.omitted_labels(CLASSES) == by_label.omitted_labels(CLASSES) == [1, 4]
    assert by_name.title(CLASSES) == "without classes 1, 4 (dataset)"


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([5], r"no class 5\. Possible: 0 to 4, or a name \(ant, bee, cat, \.\.\.\)"),
        ([-1], "no class -1"),
        (["bees"], "no class bees; did you mean bee"),
        ([1, "bee"], r"omit_classes=\[1,bee\]: name each class only once"),
        ([0, 1, 2, 3, 4], "leaves 0 of 5 classes, too few"),
    ],
)
def test_invalid_classes_are_refused(classes, message):
    with pytest.raises(ValueError, match=message):
        Protocol(omit_classes=classes).omitted_labels(CLASSES)


def test_known_classes_are_checked_before_loading(tmp_path):
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


def test_subset_of_only_omitted_classes_is_refused():
    """The first images of a folder can all be of one class."""
    labels = torch.arange(5).repeat_interleave(40)
    with pytest.raises(
        ValueError, match=r"first-of-this-order 10 %; without classes 0 \(dataset\): no training image"
    ):
        apply(labels=labels, subset=Subset(0.1, "first"), omit_classes=[0])


# ---- long tail


@given(st.floats(1.0, 500.0), st.integers(0, 9))
def test_long_tail_has_the_exponential_profile(imbalance, seed):
    training = apply(imbalance=imbalance, imbalance_seed=seed)
    counts = torch.bincount(LABELS[training.subset], minlength=5).tolist()
    expected = [max(1, int(40 * (1 / imbalance) ** (c / 4))) for c in range(5)]
    assert counts == expected
    assert torch.equal(training.subset, training.subset.unique())


def test_imbalance_seed_determines_the_images():
    one, same, other = (apply(imbalance=10, imbalance_seed=seed).subset for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.bincount(LABELS[one]).tolist() == torch.bincount(LABELS[other]).tolist()


def test_groups_of_a_long_tail_exclude_omitted_classes():
    """No class has more than 100 images, so the groups are thirds of the classes."""
    assert apply(imbalance=10).groups == {"head": [0, 1], "medium": [2, 3], "tail": [4]}
    assert apply(imbalance=10, omit_classes=[4]).groups == {
        "omitted": [4],
        "kept": [0, 1, 2, 3],
        "head": [0, 1],
        "medium": [2],
        "tail": [3],
    }


def test_stratified_subset_of_a_long_tail_keeps_its_profile():
    training = apply(imbalance=10, subset=Subset(0.5))
    halves = torch.tensor([40, 22, 12, 7, 4]) / 2
    assert (torch.bincount(LABELS[training.subset]) - halves).abs().max() <= 1


# ---- label noise


@given(st.floats(0, 1), st.integers(0, 5))
def test_noise_changes_labels_at_its_rate(rate, seed):
    labels = torch.arange(4000) % 5
    noisy = apply(labels=labels, available=torch.arange(4000), label_noise=rate, label_noise_seed=seed).labels
    changed = (noisy != labels).double().mean().item()
    assert abs(changed - rate) < 5 * (rate * (1 - rate) / 4000) ** 0.5 + 1e-9


def test_noise_draws_other_classes_uniformly():
    labels = torch.zeros(40_000, dtype=torch.int64)
    counts = torch.bincount(apply(labels=labels, available=torch.arange(40_000), label_noise=1.0).labels)
    assert counts[0] == 0
    assert (counts[1:] - 10_000).abs().max() < 500


def test_noise_of_an_image_is_the_same_in_every_subset():
    whole = apply(label_noise=0.5).labels
    few = apply(label_noise=0.5, subset=Subset(0.2))
    assert torch.equal(few.labels[few.subset], whole[few.subset])
    others = torch.ones(200, dtype=torch.bool)
    others[few.subset] = False
    assert torch.equal(few.labels[others], LABELS[others])


def test_noise_does_not_affect_validation_test_and_fingerprint():
    data, splits = make_data(label_noise=0.9, validation=20), load_fake(classes=5, train=120, size=8)
    validation, test = data.eval_batch("validation", 0, 20), data.eval_batch("test", 0, 32)
    assert torch.equal(validation.target, splits.train.labels[validation.index])
    assert torch.equal(test.target, splits.test.labels)
    assert data.fingerprint == fingerprint(splits)
    batches = epoch_of(data)
    wrong = sum(int((batch.target != splits.train.labels[batch.index]).sum()) for batch in batches)
    assert 70 <= wrong <= 100
    assert torch.equal(data.dataset_info.labels[batches[0].index], batches[0].target)


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)])
def test_noise_seed_determines_the_labels(seed, same):
    first, other = (apply(label_noise=0.5, label_noise_seed=number).labels for number in (0, seed))
    assert torch.equal(first, other) == same


def test_noise_needs_two_classes():
    with pytest.raises(ValueError, match="leaves 1 of 5 classes"):
        apply(label_noise=0.1, omit_classes=[0, 1, 2, 3])


# ---- combinations


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
def test_title_describes_the_protocol(options, title):
    assert Protocol(**options).title(CLASSES) == title


def test_title_says_first_only_for_the_authors_order():
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
def test_invariants_of_any_protocol(subset, omit_classes, omit, imbalance, label_noise, cut):
    """The validation part stays untouched, the subset is what is shown, and repeated calls agree."""
    available = ALL[cut * 30 :]
    options = {"subset": subset, "omit_classes": omit_classes, "omit": omit, "imbalance": imbalance}
    training = apply(available=available, label_noise=label_noise, **options)
    again = apply(available=available, label_noise=label_noise, **options)
    for name in ("index", "occurrence", "is_shown", "subset", "labels"):
        assert torch.equal(getattr(training, name), getattr(again, name))
    rows = training.index[training.is_shown]
    assert torch.equal(rows.unique(), training.subset)
    assert torch.isin(training.subset, available).all()
    pairs = torch.stack([rows, training.occurrence[training.is_shown]])
    assert pairs.unique(dim=1).shape == pairs.shape
    assert torch.equal(training.labels[: cut * 30], LABELS[: cut * 30])
    assert not set(training.labels[rows].tolist()) & set(omit_classes)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Subset, {"fraction": 0.0}, r"subset: fraction must be in \(0, 1\], got 0.0"),
        (Subset, {"fraction": 1.5}, "got 1.5"),
        (Subset, {"mode": "last"}, "subset: mode must be stratified or first, got 'last'"),
        (Protocol, {"omit": "never"}, "dataset: omit must be dataset or loop, got 'never'"),
        (
            Protocol,
            {"imbalance": 0.5},
            "dataset: imbalance must be finite and at least 1, got 0.5",
        ),
        (Protocol, {"imbalance": float("inf")}, "got inf"),
        (Protocol, {"label_noise": 1.1}, r"dataset: label_noise must be in \[0, 1\], got 1.1"),
        (Protocol, {"label_noise": -0.1}, "got -0.1"),
    ],
)
def test_invalid_options_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
