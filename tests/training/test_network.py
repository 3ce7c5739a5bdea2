"""The network's shapes, the parts of its loss, and the file that it becomes."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")  # what is imported below needs it: after it, whatever E402 says

import onnx  # noqa: E402
import onnxruntime  # noqa: E402

from edge_runtime.errors import ConfigError  # noqa: E402
from models.training.examples import Example  # noqa: E402
from models.training.export import OPERATORS, export_onnx, multiply_adds  # noqa: E402
from models.training.loss import Batch, loss_of, sizes_of  # noqa: E402
from models.training.network import Network, Output  # noqa: E402
from models.training.recipe import Recipe  # noqa: E402
from tests.training.drawn import LUNGS, TINY, tiny  # noqa: E402

pytestmark = pytest.mark.train
torch.set_num_threads(1)  # threads that wait for one another gain nothing on pictures this small

CPU = torch.device("cpu")


def ramanujan(a: float, b: float) -> float:
    """Ramanujan's second approximation of an ellipse's circumference (1914), from its semi-axes."""
    h = ((a - b) / (a + b)) ** 2
    return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))


def drawn_ellipse(a: float, b: float, angle: float) -> np.ndarray:
    """(192, 288), 1 inside."""
    y, x = np.mgrid[:192, :288] - np.array([95.3, 140.7])[:, None, None]
    u, v = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    return ((u / a) ** 2 + (v / b) ** 2 <= 1).astype(np.uint8)


def example(masks: np.ndarray, known: float = 1.0, presence: float = 1.0, turned: int = 0) -> Example:
    masks = 255 * masks.astype(np.uint8)
    return Example(
        image=masks.max(0, keepdims=True),
        masks=masks,
        band=np.zeros_like(masks[:1]),
        known=np.float32(known),
        presence=np.float32(presence),
        turned=np.int64(turned),
        inverted=np.float32(0),
    )


# ---------------------------------------------------------------- network


@pytest.mark.parametrize(("classes", "views", "grid"), [(1, 1, (192, 288)), (3, 6, (64, 64))])
def test_the_mask_has_the_grid_of_the_image(classes: int, views: int, grid: tuple[int, int]) -> None:
    output = Network(classes, views, (4, 4, 8, 8), (1, 2)).eval()(torch.zeros(2, 1, *grid))
    assert output.mask.shape == (2, classes, *grid)
    assert output.view.shape == (2, views)


# ---------------------------------------------------------------- loss


@pytest.mark.parametrize(("a", "b", "angle"), [(60, 60, 0), (90, 70, 0.5), (80, 40, -1.2), (30, 22, 2.0)])
def test_the_circumference_of_a_drawn_ellipse_is_ramanujans(a: float, b: float, angle: float) -> None:
    weight = torch.from_numpy(drawn_ellipse(a, b, angle)).float()[None, None]
    sizes = sizes_of(weight, elliptic=True)
    assert float(sizes.size) == pytest.approx(ramanujan(a, b), rel=3e-3)
    assert (float(sizes.x), float(sizes.y)) == pytest.approx((140.7, 95.3), abs=0.2)


def test_a_structure_that_is_no_ellipse_is_measured_by_its_area() -> None:
    weight = torch.from_numpy(drawn_ellipse(50, 30, 0.3)).float()[None, None]
    assert float(sizes_of(weight, elliptic=False).size) == pytest.approx(math.pi * 50 * 30, rel=5e-3)


def perfect(masks: np.ndarray, views: int, sign: float = 1.0) -> Output:
    """Logits that say `masks` (labels, h, w), an upright picture and presence; their opposite for -1."""
    truth = torch.from_numpy(masks).float()[None]
    if len(masks) > 1:
        truth = torch.cat([1 - truth.sum(1, keepdim=True), truth], 1)
    view = torch.tensor([[1.0, 1, -1, -1, -1, -1]])[:, :views]
    return Output(sign * (40 * truth - 20), sign * 20 * view)


def two_parts() -> np.ndarray:
    left, right = np.zeros((2, 64, 64), np.uint8)
    cv2.circle(left, (18, 30), 12, 1, cv2.FILLED)
    cv2.circle(right, (46, 30), 10, 1, cv2.FILLED)
    return np.stack([left, right])


@pytest.mark.parametrize("labels", [1, 2])
def test_a_perfect_answer_costs_nothing_and_its_opposite_much(labels: int) -> None:
    masks = drawn_ellipse(80, 50, 0.4)[None] if labels == 1 else two_parts()
    views = 1 if labels == 1 else 6
    batch = Batch([example(masks)], CPU)
    right = loss_of(perfect(masks, views), batch, elliptic=labels == 1)
    wrong = loss_of(perfect(masks, views, -1.0), batch, elliptic=labels == 1)
    extra = {"shape"} if labels == 1 else {"view"}
    assert set(right) == set(wrong) == {"cross", "dice", "size", "presence", *extra}
    assert max(float(value) for value in right.values()) < 1e-3
    assert all(float(wrong[name]) > 0.4 for name in ("cross", "dice", "presence"))


def test_an_unknown_mask_costs_nothing_and_presence_still_does() -> None:
    masks = drawn_ellipse(80, 50, 0.4)[None]
    batch = Batch([example(0 * masks, known=0.0)], CPU)
    found = loss_of(perfect(masks, 1, -1.0), batch, elliptic=True)
    assert {name: float(value) for name, value in found.items() if name != "presence"} == {
        "cross": 0,
        "dice": 0,
        "size": 0,
        "shape": 0,
    }
    assert float(found["presence"]) > 10


def test_foreign_pictures_are_not_asked_which_way_up_they_are() -> None:
    masks = two_parts()
    foreign = Batch([example(0 * masks, presence=0.0, turned=2)], CPU)
    assert float(loss_of(perfect(masks, 6), foreign, elliptic=False)["view"]) == 0


def test_a_cell_near_an_outline_weighs_four_times() -> None:
    one = example(drawn_ellipse(80, 50, 0.4)[None])
    near = one._replace(band=np.full_like(one.band, 255))
    output = perfect(drawn_ellipse(70, 50, 0.4)[None], 1)
    far, close = (float(loss_of(output, Batch([e], CPU), True)["cross"]) for e in (one, near))
    assert close == pytest.approx(4 * far)


# ---------------------------------------------------------------- export


def weights_of(recipe: Recipe, folder: Path) -> Path:
    torch.manual_seed(0)
    network = Network(recipe.classes, recipe.views, recipe.network.widths, recipe.network.bottom)
    for value in network.state_dict().values():
        if value.is_floating_point():  # as trained: no two alike, which the exporter would join
            value += 0.1 * torch.rand_like(value)
    torch.save({"network": network.state_dict()}, folder / "weights.pt")
    return folder / "weights.pt"


@pytest.mark.parametrize(
    ("text", "outputs"),
    [
        (TINY, {"mask": [1, 1, 48, 64], "presence": [1, 1]}),
        (LUNGS, {"mask": [1, 3, 64, 64], "presence": [1, 1], "rotation": [1, 4], "polarity": [1, 1]}),
    ],
    ids=["one label", "lungs"],
)
def test_what_is_exported_takes_grey_bytes_and_gives_probabilities(
    tmp_path: Path, text: str, outputs: dict[str, list[int]]
) -> None:
    recipe, target = tiny(tmp_path, text=text), tmp_path / "out" / "model.onnx"
    export_onnx(recipe, weights_of(recipe, tmp_path), target)
    assert {node.op_type for node in onnx.load(str(target)).graph.node} <= OPERATORS
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    grid = list(recipe.network.grid_hw)
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", [1, 1, *grid])
    assert {one.name: one.shape for one in session.get_outputs()} == outputs
    noise = np.random.default_rng(0).integers(0, 256, (1, 1, *grid)).astype(np.uint8)
    found = dict(zip(outputs, session.run(list(outputs), {"image": noise}), strict=True))
    assert all(0 <= one.min() <= one.max() <= 1 for one in found.values())
    sums = [found[name].sum(1) for name in ("mask", "rotation") if found.get(name, noise).shape[1] > 1]
    assert all(np.allclose(one, 1, atol=1e-5) for one in sums)
    assert list(tmp_path.glob("out/*")) == [target]
    assert multiply_adds(target) > 1000


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    weights = weights_of(tiny(tmp_path), tmp_path)
    with pytest.raises(ConfigError, match=r"weights\.pt.*tiny"):
        export_onnx(tiny(tmp_path, text=LUNGS), weights, tmp_path / "model.onnx")
    weights.write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=r"weights\.pt"):
        export_onnx(tiny(tmp_path), weights, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
