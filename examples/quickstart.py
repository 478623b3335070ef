"""Fit a neural spline flow to a table, compare it, sample from it, save it and load it.

    python examples/quickstart.py [TABLE.csv | TABLE.npz] [--epochs N] [--rows N] [--output FOLDER]

Without a file the table is made of the pixels of a photograph that ships with scikit-learn: where a
pixel is, and its red, green and blue. With one, it is any numeric .csv (with or without a line of
names), or the first matrix of an .npz. A tenth of the rows is held out for the figures printed,
which are mean log-likelihoods in nats, in units of the standardized columns.
"""

import argparse
from pathlib import Path

import jax
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import multivariate_normal
from sklearn.datasets import load_sample_image
from sklearn.mixture import GaussianMixture

import flowdists as fd


def photograph() -> tuple[np.ndarray, list[str]]:
    """One row per pixel, with uniform noise in place of what rounding to integers took away."""
    image = load_sample_image("china.jpg")[::2, ::2]
    row, column = np.indices(image.shape[:2])
    table = np.stack([column, -row, *np.moveaxis(image, -1, 0)], axis=-1).reshape(-1, 5)
    noise = np.random.default_rng(0).uniform(size=table.shape)
    return table + noise, ["x", "y", "red", "green", "blue"]


def read(path: Path) -> tuple[np.ndarray, list[str]]:
    if path.suffix == ".npz":
        with np.load(path) as file:
            table = next((file[k] for k in file if file[k].ndim == 2), None)
        if table is None:
            raise SystemExit(f"{path} holds no matrix")
        return table, [str(i) for i in range(table.shape[1])]
    with path.open() as lines:
        names = lines.readline().strip().split(",")
    table = np.genfromtxt(path, delimiter=",")
    if np.isnan(table[0]).all():
        return table[1:], names
    return table, [str(i) for i in range(table.shape[1])]


def prepare(table: np.ndarray, most_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Shuffle, hold out a tenth, standardize by the rest."""
    order = np.random.default_rng(1).permutation(len(table))[:most_rows]
    test, train = np.split(table[order], [len(order) // 10])
    mean, deviation = train.mean(0), train.std(0)
    train, test = (((part - mean) / deviation).astype(np.float32) for part in (train, test))
    return train, test


def report(name: str, scores: np.ndarray) -> None:
    print(f"  {name:24s} {scores.mean():8.3f}  (+/- {2 * scores.std() / len(scores) ** 0.5:.3f})")


def corner(path: Path, names: list[str], **tables: np.ndarray) -> None:
    """Pairwise scatter plots below the diagonal, histograms on it; at most six columns."""
    names = names[:6]
    size = len(names)
    figure, axes = plt.subplots(size, size, figsize=(1.8 * size, 1.8 * size), squeeze=False)
    for (i, j), ax in np.ndenumerate(axes):
        if j > i:
            ax.axis("off")
            continue
        low = np.quantile(tables["data"], 0.002, axis=0) - 0.2
        high = np.quantile(tables["data"], 0.998, axis=0) + 0.2
        for color, (label, table) in zip(("black", "tab:orange"), tables.items(), strict=True):
            if i == j:
                bins = np.linspace(low[i], high[i], 50)
                ax.hist(table[:, i], bins, density=True, histtype="step", color=color, label=label)
            else:
                ax.plot(table[:, j], table[:, i], ",", color=color, alpha=0.6)
                ax.set_ylim(low[i], high[i])
        ax.set_xlim(low[j], high[j])
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_xlabel(names[j] if i == size - 1 else "")
        ax.set_ylabel(names[i] if j == 0 and i else "")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right", fontsize="large")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", nargs="?", type=Path, help="a numeric .csv or .npz")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rows", type=int, default=30_000, help="the most rows to use")
    parser.add_argument("--output", type=Path, default=Path())
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)

    table, names = photograph() if args.table is None else read(args.table)
    train, test = prepare(table, args.rows)
    print(f"{len(train)} rows to fit, {len(test)} held out, {len(names)} columns")

    init_key, fit_key, sample_key = jax.random.split(jax.random.key(0), 3)
    flow = fd.NSF(init_key, event_shape=train.shape[1:])
    flow, history = fd.fit(fit_key, flow, train, max_epochs=args.epochs)
    print(f"best of {len(history.train)} epochs: {history.best_epoch + 1}")

    print("mean held-out log-likelihood, nats (two standard errors):")
    gaussian = multivariate_normal(train.mean(0), np.cov(train.T), allow_singular=True)
    report("Gaussian", gaussian.logpdf(test))
    mixture = GaussianMixture(20, random_state=0, reg_covar=1e-4).fit(train)
    report("mixture of 20 Gaussians", mixture.score_samples(test))
    report("neural spline flow", np.asarray(flow.log_prob(test)))

    picture = args.output / "quickstart.png"
    corner(picture, names, data=test, samples=np.asarray(flow.sample(sample_key, (len(test),))))
    saved = args.output / "quickstart.safetensors"
    fd.save(saved, flow)
    loaded = fd.load(saved)
    difference = np.abs(loaded.log_prob(test) - flow.log_prob(test)).max()
    print(f"saved {picture} and {saved}; densities of the loaded flow differ by {difference}")
    if difference > 0:
        raise SystemExit("the loaded flow is not the saved one")


if __name__ == "__main__":
    main()
