"""Train Glow on images and look at it: samples, temperatures, reconstructions, interpolations.

    python examples/glow_images.py [IMAGES.npz | FOLDER] [--minutes N] [--output FOLDER] [...]

Without images it takes MNIST from FLOWDISTS_DATA/images/mnist.npz, or scikit-learn's digits where
that is missing. Of an .npz it takes the first uint8 array of images, before others one with "train"
in its name (or `--array`), the first vector of integers as long as that for labels (or `--labels`),
and for held-out images the arrays that have "test" in their names in place of "train". Of a folder
it takes the images, fitted to `--size` pixels, and subfolders for labels. Where nothing is held
out, a tenth is. Labels make the flow conditional on classes.

Images are cropped to multiples of 2 ** scales. MNIST thus loses its margins, 28x28 pixels become
24x24, and gains the third scale, without which the parts of a digit do not come together in the
four minutes on two cores that the defaults are for. (`--scales 2` keeps the margins.) The same
command once more trains on from OUTPUT/checkpoint.npz for as long again; Ctrl-C ends training
early, and nothing is lost. OUTPUT/glow.safetensors is the flow, for `flowdists.load`.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import optax
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from tqdm import tqdm

import flowdists as fd

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
GREY = ("1", "L")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
STEPS_PER_CALL, WARM_UP, DECAY, CLIP_NORM = 40, 100, 0.998, 5.0
CHUNK, SECONDS_BETWEEN_SAVES, MOST_CLASSES, MOST_ROWS = 250, 30, 100, 20
SIZES = ("num_scales", "steps_per_scale", "hidden_channels", "coupling")
TEMPERATURES = np.linspace(0, 1, 6)


class Images(NamedTuple):
    pixels: Any  # uint8, (n, height, width, channels)
    labels: Any = None  # integers below the number of classes, (n,)


class State(NamedTuple):
    flow: Any
    average: Any
    optimizer: Any
    step: Any


def take(images: Images, index: Any) -> Images:
    return jax.tree.map(lambda array: array[index], images)


def read(args: argparse.Namespace) -> tuple[Images, Images, list[str]]:
    """Training images, held-out images and the names of classes, if there are classes."""
    path = args.images or Path(os.environ.get("FLOWDISTS_DATA", DEFAULT_DATA)) / "images/mnist.npz"
    if path.is_dir():
        parts = read_folder(path, args.size)
    elif args.images is not None or path.exists():
        parts = read_npz(path, args.array, args.labels, args.unconditional)
    else:
        print(f"no {path}: scikit-learn's digits instead")
        digits = load_digits()
        parts = [Images(np.uint8(digits.images * (255 / 16)), digits.target)]
    # Shuffled, for files are often sorted by class, and the first images stand for all below.
    shuffle = np.random.default_rng(0).permutation
    parts = [take(part, shuffle(len(part.pixels))) for part in parts]
    if len(parts) == 1:
        cut = -(-len(parts[0].pixels) // 10)
        parts = [take(parts[0], slice(cut, None)), take(parts[0], slice(cut))]
    pixels = [jnp.asarray(crop(part.pixels, 2**args.num_scales)) for part in parts]
    labels = [part.labels for part in parts]
    if args.unconditional or any(part is None for part in labels):
        return Images(pixels[0]), Images(pixels[1]), []
    names, codes = np.unique(np.concatenate(labels), return_inverse=True)
    train, test = np.split(np.int32(codes), [len(labels[0])])
    return Images(pixels[0], train), Images(pixels[1], test), [str(name) for name in names]


def read_npz(
    path: Path, array: str | None, labels: str | None, unconditional: bool
) -> list[Images]:
    with np.load(path) as file:
        arrays = dict(file)

    def is_images(a: np.ndarray) -> bool:
        return a.dtype == np.uint8 and a.ndim in (3, 4) and a.shape[3:] in ((), (1,), (3,))

    def is_labels(a: np.ndarray, images: str) -> bool:
        integers = a.dtype.kind in "iu" and a.shape == arrays[images].shape[:1]
        return integers and len(np.unique(a)) <= MOST_CLASSES

    # Training images may come after others in the file.
    order = sorted(arrays, key=lambda name: ("train" not in name, "test" in name))
    array = array or next((k for k in order if is_images(arrays[k])), None)
    if array not in arrays or not is_images(arrays[array]):
        raise SystemExit(f"{path}: no uint8 images (n, height, width[, 1 or 3]) in {list(arrays)}")
    labels = labels or next((k for k in order if is_labels(arrays[k], array)), None)
    labels = None if unconditional else labels
    pairs = [(array, labels)]
    held_out = array.replace("train", "test")
    if held_out != array and held_out in arrays:
        pairs.append((held_out, labels and labels.replace("train", "test")))
        if labels is not None and labels == pairs[1][1]:
            raise SystemExit(
                f"{path}: `{labels}` are the labels of `{array}` or of `{held_out}`, not of both; "
                "give --unconditional, or names with `train` and `test`"
            )
    for images, name in pairs:
        if name is not None and not (name in arrays and is_labels(arrays[name], images)):
            raise SystemExit(
                f"{path}: no integer for each image of `{images}` in `{name}`; name others by "
                "--labels, or give --unconditional"
            )
    return [Images(arrays[images], name and arrays[name]) for images, name in pairs]


def read_folder(folder: Path, size: int) -> list[Images]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"{folder}: no images, whose names end in {', '.join(sorted(SUFFIXES))}")
    opened = [Image.open(path) for path in paths]
    mode = "L" if all(image.mode in GREY for image in opened) else "RGB"
    images = [ImageOps.fit(image.convert(mode), (size, size)) for image in opened]
    classes = np.array([str(path.parent.relative_to(folder)) for path in paths])
    labels = classes if len(set(classes)) > 1 else None
    return [Images(np.stack([np.asarray(image) for image in images]), labels)]


def crop(pixels: np.ndarray, factor: int) -> np.ndarray:
    """The middle of the images, with sides that are multiples of ``factor``; channels last."""
    if min(pixels.shape[1:3]) < factor:
        raise SystemExit(
            f"--scales: images of {pixels.shape[1]}x{pixels.shape[2]} have to be at least "
            f"{factor}x{factor} for this many"
        )
    top, left = (size % factor // 2 for size in pixels.shape[1:3])
    height, width = (size - size % factor for size in pixels.shape[1:3])
    pixels = pixels[:, top : top + height, left : left + width]
    return pixels[..., None] if pixels.ndim == 3 else pixels


def given(flow: Any, labels: Any) -> fd.Flow:
    return flow if labels is None else flow.condition(labels)


def bits(key: jax.Array, flow: Any, images: Images, num_bits: int) -> jax.Array:
    """Bits per dimension of the discrete images, whose noise is drawn anew."""
    x = fd.dequantize(key, images.pixels, num_bits=num_bits)
    return fd.bits_per_dim(given(flow, images.labels).log_prob(x), flow.event_shape, num_bits)


def held_out_bits(flow: Any, images: Images, num_bits: int) -> np.ndarray:
    """Bits per dimension with noise that is the same every time."""
    size = len(images.pixels)
    chunks = np.arange(-(-size // CHUNK) * CHUNK).reshape(-1, CHUNK) % size
    keys = jax.random.split(jax.random.key(1), len(chunks))
    scores = [score(k, flow, take(images, c), num_bits) for k, c in zip(keys, chunks, strict=True)]
    return np.concatenate(scores)[:size]


score = jax.jit(bits, static_argnames="num_bits")
encode, decode = jax.jit(fd.images.encode), jax.jit(fd.images.decode)
sample = jax.jit(fd.images.sample_from_noise)


def optimizer_of(args: argparse.Namespace) -> optax.GradientTransformation:
    rate = optax.linear_schedule(0.0, args.learning_rate, WARM_UP)
    optimizer = {"adam": optax.adam, "adamax": optax.adamax}[args.optimizer]
    return optax.chain(optax.clip_by_global_norm(CLIP_NORM), optimizer(rate))


def start(args: argparse.Namespace, train: Images, num_classes: int) -> State:
    """An untrained flow, its layers initialized from a first batch."""

    options = {name: getattr(args, name) for name in SIZES}

    @jax.jit  # one compilation in place of many small ones
    def build(first: Images) -> State:
        shape, classes = first.pixels.shape[1:], num_classes or None
        flow = fd.Glow(jax.random.key(0), shape, num_classes=classes, **options)
        x = fd.dequantize(jax.random.key(2), first.pixels, num_bits=args.num_bits)
        flow = flow.data_init(x) if first.labels is None else flow.data_init(x, first.labels)
        return State(flow, flow, optimizer_of(args).init(flow), jnp.zeros((), jnp.int32))

    return build(take(train, slice(512)))


def make_steps(args: argparse.Namespace) -> Any:
    """The compiled function that takes ``STEPS_PER_CALL`` steps, and returns their mean loss."""
    optimizer = optimizer_of(args)

    def loss(flow: Any, key: jax.Array, batch: Images) -> jax.Array:
        return bits(key, flow, batch, args.num_bits).mean()

    def step(train: Images, state: State) -> tuple[State, jax.Array]:
        key = jax.random.fold_in(jax.random.key(3), state.step)
        rows_key, noise_key = jax.random.split(key)
        rows = jax.random.randint(rows_key, (args.batch_size,), 0, len(train.pixels))
        value, gradient = jax.value_and_grad(loss)(state.flow, noise_key, take(train, rows))
        updates, inner = optimizer.update(gradient, state.optimizer)
        flow = optax.apply_updates(state.flow, updates)
        # The average forgets the start faster than it will forget what comes later.
        decay = jnp.minimum(DECAY, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(flow, state.average, 1 - decay)
        return State(flow, average, inner, state.step + 1), value

    @jax.jit
    def steps(state: State, train: Images) -> tuple[State, jax.Array]:
        run = lambda state, _: step(train, state)
        state, losses = jax.lax.scan(run, state, length=STEPS_PER_CALL)
        return state, losses.mean()

    return steps


def write_checkpoint(path: Path, state: State, history: list[Any], settings: str) -> None:
    leaves = {f"leaf{i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}
    new = path.with_suffix(".new.npz")
    np.savez(new, settings=settings, history=np.array(history), **leaves)
    new.replace(path)  # in one step, so that there is a whole checkpoint at all times


def read_checkpoint(path: Path, state: State, settings: str) -> tuple[State, list[Any]]:
    """Training where it stopped; ``state`` has the structure."""
    with np.load(path) as file:
        if str(file["settings"]) != settings:
            raise SystemExit(
                f"{path} is of {file['settings']}, not of {settings}: give --restart or another "
                "--output"
            )
        leaves, structure = jax.tree.flatten(state)
        leaves = [jnp.asarray(file[f"leaf{i}"]) for i in range(len(leaves))]
        return jax.tree.unflatten(structure, leaves), file["history"].tolist()


def train_flow(args: argparse.Namespace, train: Images, test: Images, names: list[str]) -> Any:
    """The averaged flow after as many minutes as the arguments say, resumed if it can be."""
    clock, budget = time.perf_counter, 60 * args.minutes
    begin = saved = clock()
    checkpoint, history = args.output / "checkpoint.npz", []
    state, steps = start(args, train, len(names)), make_steps(args)
    agreed = {name: getattr(args, name) for name in (*SIZES, "num_bits", "optimizer")}
    data = {
        "image": train.pixels.shape[1:],
        "classes": names,
        "crc32": crc32(np.asarray(train.pixels)),
    }
    settings = json.dumps(data | agreed)
    if checkpoint.exists() and not args.restart:
        state, history = read_checkpoint(checkpoint, state, settings)
        print(f"resumed at step {state.step}, after {history[-1][1]:.0f} s")
    before = history[-1][1] if history else 0.0
    monitored = take(test, slice(CHUNK))

    def save() -> None:
        write_checkpoint(checkpoint, state, history, settings)
        fd.save(args.output / "glow.safetensors", state.average)
        grid = sample_grid(state.average, args, len(names))
        draw(args.output / f"samples_{state.step:06d}.png", grid, args.num_bits, names)

    with tqdm(total=round(budget), unit="s", desc="bits/dim") as bar:
        try:
            while True:  # once at least, however long it took to compile
                new, loss = steps(state, train)
                if not np.isfinite(loss):
                    raise SystemExit("the loss is not finite: try a lower --learning-rate")
                held_out = held_out_bits(new.average, monitored, args.num_bits).mean()
                state, seconds = new, clock() - begin
                history.append((int(new.step), before + seconds, float(loss), float(held_out)))
                bar.set_postfix_str(f"step {new.step}, train {loss:.3f}, held out {held_out:.3f}")
                bar.update(min(round(seconds), bar.total) - bar.n)
                if clock() - saved > SECONDS_BETWEEN_SAVES:
                    save()
                    saved = clock()
                if seconds > budget:
                    break
        except KeyboardInterrupt:
            print("interrupted: the pictures are of what there is")
    if history:
        save()
        draw_history(args.output / "glow_training.png", np.array(history))
    print(f"trained for {state.step} steps, {clock() - begin:.0f} s this time")
    return state.average


def sample_grid(flow: Any, args: argparse.Namespace, num_classes: int) -> jax.Array:
    """Samples of the same noise every time, a row for each class."""
    rows = min(num_classes, MOST_ROWS) or 10
    noise = jax.random.normal(jax.random.key(4), (rows, 10, math.prod(flow.event_shape)))
    labels = np.repeat(np.arange(rows)[:, None], 10, axis=1) if num_classes else None
    return sample(given(flow, labels), noise, args.temperature)


def temperature_grid(flow: Any, num_classes: int) -> jax.Array:
    """The same noise, a row for each temperature."""
    noise = jax.random.normal(jax.random.key(5), (10, math.prod(flow.event_shape)))
    flow = given(flow, np.arange(10) % num_classes if num_classes else None)
    return jnp.stack([sample(flow, noise, t) for t in TEMPERATURES])


def interpolations(flow: Any, x: jax.Array, labels: Any, num_classes: int) -> jax.Array:
    """From the first images to the last: the latents of all scales move, and so do the classes."""
    half = len(x) // 2

    def blend(values: jax.Array) -> jax.Array:
        t = jnp.linspace(0, 1, 10).reshape(-1, *[1] * values.ndim)
        return (1 - t) * values[:half] + t * values[-half:]

    latents = encode(given(flow, labels), x)
    context = None if labels is None else blend(jax.nn.one_hot(labels, num_classes))
    return decode(given(flow, context), [blend(part) for part in latents]).swapaxes(0, 1)


def draw(path: Path, x: jax.Array, num_bits: int, rows: Sequence[str]) -> None:
    """Draw a grid of images, ``(rows, columns, height, width, channels)``."""
    undefined = np.isnan(x)
    if undefined.any():  # samples of a flow of few steps may overflow
        print(f"{path.name}: {undefined.sum()} of {undefined.size} pixels are NaN, drawn black")
    grid = np.asarray(fd.to_uint8(jnp.where(undefined, -0.5, x), num_bits))
    grid = np.pad(grid, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)], constant_values=128)
    num_rows, num_columns, height, width, channels = grid.shape
    mosaic = grid.swapaxes(1, 2).reshape(num_rows * height, num_columns * width, channels)
    figure, ax = plt.subplots(figsize=(0.6 * num_columns, 0.6 * num_rows * height / width))
    ax.imshow(mosaic.squeeze(), cmap="gray", vmin=0, vmax=255)
    rows = rows[:num_rows]
    ax.set_yticks(height * (np.arange(len(rows)) + 0.5) - 0.5, rows)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.05)
    plt.close(figure)


def draw_history(path: Path, history: np.ndarray) -> None:
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    step, _, train, held_out = history.T
    ax.plot(step, train, label="training")
    ax.plot(step, held_out, label="held out, averaged parameters")
    ax.set(xlabel="step", ylabel="bits per dimension", ylim=(None, 1.5 * np.median(train)))
    ax.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def report(args: argparse.Namespace, flow: Any, test: Images, names: list[str]) -> None:
    """The held-out likelihood, and all the pictures."""
    values = np.asarray(held_out_bits(flow, test, args.num_bits))
    error = values.std() / len(values) ** 0.5
    print(f"held out: {values.mean():.4f} bits/dim (standard error {error:.4f})")

    some = take(test, slice(10))
    x = fd.dequantize(jax.random.key(6), some.pixels, num_bits=args.num_bits)
    given_class = given(flow, some.labels)
    back = decode(given_class, encode(given_class, x))
    error = 256 * float(abs(back - x).max())
    print(f"images to latents and back: at most {error:.1e} of 256 grey levels off")

    pictures = {
        "samples": (sample_grid(flow, args, len(names)), names),
        "temperatures": (temperature_grid(flow, len(names)), [f"{t:.1f}" for t in TEMPERATURES]),
        "reconstructions": (jnp.stack([x, back]), ["image", "back"]),
        "interpolations": (interpolations(flow, x, some.labels, len(names)), []),
    }
    for name, (grid, rows) in pictures.items():
        draw(args.output / f"glow_{name}.png", grid, args.num_bits, rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("images", nargs="?", type=Path, help="an .npz or a folder of images")
    add("--array", help="the images' name in the .npz")
    add("--labels", help="the labels' name in the .npz")
    add("--unconditional", action="store_true", help="make no use of labels")
    add("--size", type=int, default=32, help="height and width to fit a folder's images to")
    add("--minutes", type=float, default=4.0, help="how long to train")
    add("--output", type=Path, default=Path("glow"))
    add("--restart", action="store_true", help="train from the start, not from OUTPUT's checkpoint")
    add("--scales", dest="num_scales", type=int, default=3)
    add("--steps-per-scale", type=int, default=4)
    add("--hidden-channels", type=int, default=64)
    add("--coupling", choices=("affine", "additive", "spline"), default="affine")
    add("--num-bits", type=int, default=5, help="bits to keep of every pixel's 8")
    add("--optimizer", choices=("adam", "adamax"), default="adam")
    add("--learning-rate", type=float, default=2e-3)
    add("--batch-size", type=int, default=32)
    add("--temperature", type=float, default=0.7, help="of samples")
    return parser.parse_args()


def main() -> None:
    args, begin = parse(), time.perf_counter()
    args.output.mkdir(parents=True, exist_ok=True)
    train, test, names = read(args)
    print(f"{len(train.pixels)} images of {train.pixels.shape[1:]}, {len(test.pixels)} held out")
    print(f"{len(names)} classes: {', '.join(names[:MOST_ROWS])}" if names else "no classes")
    flow = train_flow(args, train, test, names)
    report(args, flow, test, names)
    print(f"{time.perf_counter() - begin:.0f} s in all; pictures and flow are in {args.output}")


if __name__ == "__main__":
    main()
