"""Write the data of the explorables in explore/ from runs of the notebooks themselves.

    python -m tools.export_explore [digits] [bend] [noise] [pictures]

Each notebook is run, as it stands, up to the cell that defines what is exported; a cell that stores
it is added. NAME.data.js then assigns weights (in base 64), and values that PyTorch found, to
``course.data``; tests/test_explore.py compares them with what a browser computes.
"""

import base64
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np

from tools import notebook_sources, npm, run_notebook

EXPLORE = Path(__file__).resolve().parents[1] / "explore"
SHOWN = 700  # digits, as many as the notebook's picture of the codes has
WORST = 0.04  # of a pixel, by the rounding of the weights

# Cells that are added: what they leave in ``stored`` is exported.
DIGITS = """
weights = {f"{n}.{k}": v for n, l in enumerate(flat.decoder[::2]) for k, v in l.named_parameters()}
places = torch.cartesian_prod(torch.linspace(-4, 4, 9), torch.linspace(-4, 4, 9)).to(device)
with torch.no_grad():
    mu, sigma = flat.posterior(x_test)
    pixels = flat.decoder(places).sigmoid()
    cost = -log_bernoulli(x_test[:SHOWN], flat.decoder(mu[:SHOWN]))  # (n,), at the code itself
stored = weights | {"mu": mu, "sigma": sigma, "x": x_test, "y": digits.y_test, "places": places,
                    "pixels": pixels, "rate": gaussian_kl(mu, sigma), "cost": cost}
stored["colours"] = TEN
"""
BEND = """
layers = list(realnvp_flow.f.layers)
names = [name for name, _ in layers[0].net.named_parameters()]
stored = {n: torch.stack([dict(l.net.named_parameters())[n] for l in layers]) for n in names}
far_too = torch.cartesian_prod(*2 * [torch.linspace(-3, 3, 5)])
far_too = torch.cat([x_test[:40], far_too.to(x_test)])
stored |= {"flip": torch.tensor([l.flip for l in layers]), "x": far_too,
           "shift": realnvp_flow.shift, "scale": realnvp_flow.scale,
           "log_q": realnvp_flow.log_prob(far_too)}
stored["path"] = torch.stack(stages(realnvp_flow, torch.tensor([[0.5, -1.0]], device=device)))
"""
NOISE = """
stored = {n: v for n, v in denoiser.net.named_parameters()}
some = levels(6)[1:].float()
places = torch.cartesian_prod(torch.linspace(-1.5, 2.5, 5), torch.linspace(-1, 1.5, 4)).to(device)
stored |= {"centre": centre, "scale": torch.tensor(scale), "noise": torch.tensor(NOISE),
           "top": torch.tensor(TOP), "sigmas": some, "z": places,
           "learnt": torch.stack([denoiser(places, v) for v in some.tolist()]),
           "exact": torch.stack([exact_denoiser(places, v) for v in some.tolist()])}
"""
STORE = """
import numpy
numpy.savez({path!r}, **{{k: v.detach().cpu().numpy() if torch.is_tensor(v) else v
                        for k, v in stored.items()}})
"""


def ran(name: str, last: str, extra: str) -> dict[str, np.ndarray]:
    """What an extra cell finds after a notebook has run up to the cell that contains some text."""
    notebook = notebook_sources.read(name)
    (end,) = [i for i, cell in enumerate(notebook.cells) if last in cell.source]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "stored.npz")
        code = extra.replace("SHOWN", str(SHOWN)) + STORE.format(path=path)
        notebook.cells = [*notebook.cells[: end + 1], nbformat.v4.new_code_cell(code)]
        run_notebook.execute(notebook)
        return dict(np.load(path))


def packed(array: np.ndarray, kind: str = "<f4") -> str:
    """An array's numbers in base 64."""
    return base64.b64encode(np.ascontiguousarray(array).astype(kind).tobytes()).decode()


def rounded(weight: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights as whole numbers from -most to most, and a scale for each row."""
    scale = (np.abs(weight).max(1) / most).astype(np.float32)
    return np.rint(weight / scale[:, None]), scale


def decode(z: np.ndarray, layers: list) -> np.ndarray:
    """Pixel means (n, d), as the page computes them."""
    from scipy.special import erf, expit

    for number, (weight, bias) in enumerate(layers):
        z = z @ weight.T + bias
        if number < len(layers) - 1:
            z = z * (1 + erf(z / 2**0.5)) / 2
    return expit(z)


def digits() -> dict:
    """The decoder of section 6 of the notebook on autoencoders, with its codes of test digits."""
    found = ran("vae", "mu_test, sigma_test = flat.posterior(x_test)", DIGITS)
    layers, exact = [], []
    for number in range(3):
        weight, bias = found[f"{number}.weight"], found[f"{number}.bias"]
        kind = "<i2" if number < 2 else "i1"  # the last is the large one
        whole, scale = rounded(weight, np.iinfo(kind).max)
        exact.append((whole * scale[:, None], bias))
        layer = {"weight": packed(whole, kind), "scale": packed(scale), "bias": packed(bias)}
        layers.append({"shape": weight.shape, "kind": kind, **layer})
    error = np.abs(decode(found["places"], exact) - found["pixels"]).max()
    print(f"digits: largest error of a pixel {error:.4f}")
    assert error < WORST, error
    shown = {name: found[name][:SHOWN] for name in ("mu", "sigma", "x", "y", "rate", "cost")}
    some = slice(0, 81, 4)
    return {
        "layers": layers,
        "mu": packed(shown["mu"]),
        "sigma": packed(shown["sigma"]),
        "pixels": packed(np.packbits(shown["x"].astype(bool)), "u1"),
        "kind": packed(shown["y"], "u1"),
        "colours": found["colours"].tolist(),
        "check": {
            "z": found["places"][some].tolist(),
            "pixels": packed(np.rint(found["pixels"][some] * 255), "u1"),
            "rate": [round(float(v), 4) for v in shown["rate"][:20]],
            "distortion": [round(float(v), 3) for v in shown["cost"][:20]],
        },
    }


def bend() -> dict:
    """The RealNVP of section 4 of the notebook on flows."""
    found = ran("flows", "def stages(", BEND)
    weights = {name: packed(array) for name, array in found.items() if "." in name}
    return {
        "weights": weights,
        "hidden": int(found["0.bias"].shape[1]),
        "flip": found["flip"].tolist(),
        "shift": found["shift"].tolist(),
        "scale": found["scale"].tolist(),
        "check": {key: found[key].tolist() for key in ("x", "log_q", "path")},
    }


def noise() -> dict:
    """The denoiser of section 3 of the notebook on diffusion."""
    found = ran("outlook", "losses = train(denoiser, score_matching, x_train)", NOISE)
    weights = {name: packed(array) for name, array in found.items() if "." in name}
    settings = {key: found[key].tolist() for key in ("centre", "scale", "noise", "top")}
    check = {key: found[key].tolist() for key in ("sigmas", "z", "learnt", "exact")}
    return {"weights": weights, "hidden": len(found["0.bias"]), **settings, "check": check}


LICENCES = {
    "digits": "Made from MNIST (Yann LeCun, Corinna Cortes, Christopher Burges), licence\n"
    "// CC BY-SA 3.0: https://creativecommons.org/licenses/by-sa/3.0/. Changes: digits sampled to\n"
    "// black and white; weights and codes of a network trained on them.",
}
EXPORTS: dict[str, Callable[[], dict]] = {"digits": digits, "bend": bend, "noise": noise}


def pictures() -> None:
    """What is seen without JavaScript, and in a stored notebook: each figure as it begins."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=npm.browser(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 840, "height": 900})
        page.goto((EXPLORE / "index.html").as_uri())
        for figure in page.locator("[data-explore]").all():
            path = EXPLORE / f"{figure.get_attribute('data-explore')}.png"
            figure.locator("canvas").screenshot(path=path)
            small = Image.open(path).convert("RGB").quantize(64, Image.Quantize.MAXCOVERAGE)
            small.save(path, optimize=True)
        browser.close()


def main() -> None:
    for name in sys.argv[1:] or EXPORTS:
        if name != "pictures":
            licence = LICENCES.get(name, "Licence: CC BY 4.0, see LICENSE-CONTENT.")
            line = json.dumps(EXPORTS[name](), separators=(",", ":"))
            line = (
                f"// Written by tools/export_explore.py. {licence}\ncourse.data.{name} = {line};\n"
            )
            path = EXPLORE / f"{name}.data.js"
            path.write_text(line, encoding="utf-8", newline="\n")
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
    pictures()


if __name__ == "__main__":
    main()
