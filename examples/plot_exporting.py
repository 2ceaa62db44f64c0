"""
Exporting the model
===================

An encoder is trained here and used somewhere else: in a PyTorch training loop, in a service that
has neither PyTorch nor Python, or on a colleague's machine. This example trains an encoder on
digits, exports it in three ways, and checks that all of them give the same features. Then it
measures their speed.

It needs skops and the packages of the extra `onnx`.
"""

import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import skops.io
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from sklearn_simclr import SimCLRTransformer

digits = load_digits()
images, labels = digits.images.astype(np.float32), digits.target  # (1797, 8, 8)
simclr = SimCLRTransformer(max_epochs=15, random_state=0).fit(images)
features = simclr.transform(images)
folder = tempfile.TemporaryDirectory()
print(f"{simclr.encoder_name_} gives features of shape {features.shape}")

# %%
# A torch module
# --------------
# ``to_torch`` returns an ordinary ``nn.Module``. It takes images in the same form as ``transform``
# and preprocesses them itself.

module = simclr.to_torch()
with torch.no_grad():
    from_torch = module(torch.from_numpy(images)).numpy()
print(f"torch: largest difference {np.abs(from_torch - features).max():.1e}")

# %%
# The module can be trained further. Here logistic regression learns the classes from 50 images per
# class. A linear layer that starts with its coefficients follows the module, and the whole network
# takes a few small steps. In evaluation mode, batch normalisation keeps the statistics of the
# pre-training.

labelled = np.concatenate([np.flatnonzero(labels == digit)[:50] for digit in range(10)])
held_out = np.setdiff1d(np.arange(len(images)), labelled)
regression = LogisticRegression(max_iter=2000).fit(features[labelled], labels[labelled])
probed = regression.score(features[held_out], labels[held_out])

x, y = torch.from_numpy(images), torch.from_numpy(labels)
linear = torch.nn.Linear(module.n_features, 10)
with torch.no_grad():
    linear.weight.copy_(torch.from_numpy(regression.coef_))
    linear.bias.copy_(torch.from_numpy(regression.intercept_))
network = torch.nn.Sequential(simclr.to_torch(), linear).eval()
optimizer = torch.optim.AdamW(network.parameters(), lr=2e-4)
for _ in range(30):
    loss = torch.nn.functional.cross_entropy(network(x[labelled]), y[labelled])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
with torch.no_grad():
    tuned = (network(x[held_out]).argmax(1) == y[held_out]).double().mean().item()
print(f"logistic regression on the features: {probed:.1%}, fine-tuned: {tuned:.1%}")

# %%
# An ONNX file
# ------------
# ``to_onnx`` writes the same network, including the preprocessing, to a single file that runtimes
# for many languages and machines can read.

path = Path(folder.name) / "digits.onnx"
simclr.to_onnx(path)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = torch.get_num_threads()
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
(from_onnx,) = session.run(None, {"X": images})
print(f"ONNX: {path.stat().st_size / 2**20:.1f} MB, ", end="")
print(f"largest difference {np.abs(from_onnx - features).max():.1e}")

# %%
# The estimator itself
# --------------------
# With skops, a colleague can inspect what is in the file before loading any of it. The only types
# to trust are those of this package.

path = Path(folder.name) / "digits.skops"
skops.io.dump(simclr, path)
types = skops.io.get_untrusted_types(file=path)
print("to be trusted:", *types, sep="\n  ")
copy = skops.io.load(path, trusted=types)
print("skops: equal to the last bit:", np.array_equal(copy.transform(images), features))

# %%
# How fast?
# ---------
# ``transform`` checks its input and rebuilds the network in every call. This costs next to nothing
# for many images, but a lot for a single one. A service that answers one request at a time is
# better off with the module or with ONNX.


def seconds_a_call(function, n_images):
    """Return the median time over 7 calls."""
    batch, times = images[:n_images], []
    for _ in range(7):
        start = time.perf_counter()
        function(batch)
        times.append(time.perf_counter() - start)
    return np.median(times)


@torch.inference_mode()
def run_module(batch):
    return module(torch.from_numpy(batch)).numpy()


ways = {
    "transform": simclr.transform,
    "to_torch": run_module,
    "ONNX": lambda batch: session.run(None, {"X": batch}),
}
sizes = [1, 4, 16, 64, 256]
rates = {name: [n / seconds_a_call(way, n) for n in sizes] for name, way in ways.items()}

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for name, rate in rates.items():
    left.loglog(sizes, rate, marker="o", label=name)
left.set_xticks(sizes, sizes)
left.minorticks_off()
left.set(xlabel="images per call", ylabel="images per second", title="Throughput on this CPU")
left.grid(alpha=0.3)
left.legend()

for name, found in {"to_torch": from_torch, "ONNX": from_onnx}.items():
    difference = np.abs(found - features).max(axis=1)
    right.plot(np.sort(difference), np.linspace(0, 1, len(difference)), label=name)
right.axvline(np.finfo(np.float32).eps * np.abs(features).max(), color="grey", ls=":")
right.text(0.98, 0.05, "dotted: one step of float32", ha="right", transform=right.transAxes)
right.set(
    xlabel="largest difference to transform",
    ylabel="share of the images",
    title=f"Features of size up to {np.abs(features).max():.1f}",
)
right.grid(alpha=0.3)
right.legend(loc="center right")
plt.show()

# %%
# The module computes the same as ``transform`` and agrees with it to the last bit or nearly so;
# another runtime adds in a different order and differs in the last digits.

folder.cleanup()
