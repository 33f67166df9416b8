from dataclasses import replace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from kdbench.analysis import eigen_cam as cam
from kdbench.analysis.networks import subject_side
from kdbench.analysis.page import page
from kdbench.analysis.plot_examples import _pixels, features
from kdbench.analysis.plot_matrices import _order
from kdbench.analysis.plots import draw
from kdbench.analysis.report import write
from kdbench.analysis.study import study
from kdbench.data.sources.synthetic import fake, load_fake
from kdbench.utils.atomic_io import RunError

NODE = OmegaConf.create({"_target_": "kdbench.models.registry.create_model", "name": "resnet8"})


@pytest.fixture(scope="module")
def data():
    images = fake(seed=0, batch_size=8, eval_batch_size=9)
    images.setup()
    return images


@pytest.fixture(scope="module")
def side(data, teacher):
    return subject_side("model", NODE, teacher, data)


def test_outputs_do_not_depend_on_the_batch_size(data, side):
    whole = fake(seed=0, batch_size=8)
    whole.setup()
    one, other = (
        study(images, "test", side, None, gamma=0.5, gamma_from="given") for images in (data, whole)
    )
    torch.testing.assert_close(one.subject.outputs.logits, other.subject.outputs.logits)
    assert one.target.tolist() == other.target.tolist()
    assert one.images == other.images == sorted(set(one.images))


def test_features_are_the_input_of_the_classifier(data, side):
    outputs = study(data, "test", side, None, gamma=0.5, gamma_from="given").subject.outputs
    classifier = side.module.get_classifier()
    torch.testing.assert_close(classifier(outputs.features).double(), outputs.logits, atol=1e-5, rtol=1e-5)


def test_network_without_features_has_all_other_numbers_and_plots(data, side, tmp_path):
    bare = replace(side, role="teacher", features=())
    result = study(data, "test", side, bare, gamma=0.5, gamma_from="given")
    assert result.numbers["pair"]["cka"] == {"unbiased": None, "biased": None}
    assert "teacher resnet8 has no pooled features" in result.numbers["notes"][0]
    made, left_out = draw(result, tmp_path)
    assert {picture.title for picture in made} & {"Features", "Eigen-CAM"} == set()
    assert len(made) == 5
    assert "t-SNE needs the pooled features of every network" in left_out[0]
    assert "no Eigen-CAM" in left_out[1] or cam.INSTALL_HINT in left_out[1]
    assert "| linear CKA of pooled features, unbiased | - |" in page(result.numbers, made)


def test_tsne_works_with_few_images(data, side, tmp_path):
    result = study(data, "test", side, None, gamma=1, gamma_from="given")
    assert "32 images of 4 classes" in features(result, tmp_path).caption


def test_pixels_undo_the_normalisation(side):
    data = fake(seed=0, batch_size=8, mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 2.0])
    data.setup()
    result = study(data, "test", side, None, gamma=1, gamma_from="given")
    shown = torch.from_numpy(_pixels(result, data.eval_batch("test", 0, 5).inputs)).permute(0, 3, 1, 2)
    torch.testing.assert_close(shown, load_fake().test.images[:5] / 255)


def test_confused_classes_are_neighbours(data, side):
    result = study(data, "test", side, None, gamma=0.5, gamma_from="given")
    pairs = torch.full((4, 4), 0.02, dtype=torch.float64)
    for one, other in ((0, 2), (1, 3)):
        pairs[one, other] = pairs[other, one] = 0.3
    result.subject.measurements.matrices["centroids"] = pairs / pairs.sum(dim=1, keepdim=True)
    order = _order(result)
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset({0, 2}), frozenset({1, 3})}


def test_folder_that_cannot_be_written_is_an_error(data, side, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write(
            study(data, "test", side, None, gamma=1, gamma_from="given"),
            tmp_path / "file" / "x",
            pictures=False,
        )


@pytest.mark.skipif(not cam.available(), reason="the extra cam is not installed")
@pytest.mark.filterwarnings("ignore")
def test_eigen_cam_is_the_first_component_of_the_last_feature_map(data, side):
    inputs = data.eval_batch("test", 0, 3).inputs
    shown = cam.eigen_cam(side, inputs)
    assert shown.shape == (3, 32, 32)
    assert 0 <= shown.min() < 0.01
    assert shown.max() == pytest.approx(1, abs=1e-4)
    maps = side.answer_images(inputs, ("unpooled",)).features["unpooled"].double()
    for image, ours in zip(maps, shown, strict=True):
        values = image.flatten(1).T.detach().numpy()
        values = values - values.mean(axis=0)
        first = values @ np.linalg.svd(values)[2][0]
        first = first * np.sign(first[np.abs(first).argmax()])
        small = torch.nn.functional.avg_pool2d(ours[None], 4)[0].flatten().numpy()
        assert np.corrcoef(small, np.maximum(first, 0))[0, 1] > 0.9
