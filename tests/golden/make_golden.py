"""Train the golden models of this version and write them beside this file.

Each is a pickle of a fitted SimCLRTransformer, NAME.pkl, and what it was given and what it gave,
NAME.npz with X, features and score. Run it for a release whose fitted state differs from the last
one's, and commit the new files next to the old: every later version has to load them all.
"""

import pickle
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits, load_wine

from sklearn_simclr import SimCLRTransformer, __version__
from sklearn_simclr.augmentation import SimCLRAugmentation
from sklearn_simclr.encoders import ConvNetEncoder, MLPEncoder, ResNetEncoder

SETTINGS = {"projection_dim": 8, "batch_size": 16, "random_state": 0, "precision": "float32"}


def golden_models():
    """Yield (name, X, fitted model); one for each kind of state."""
    digits = load_digits().images[:64]
    encoder = ConvNetEncoder(width=4)
    yield "digits", digits, SimCLRTransformer(encoder, max_epochs=5, **SETTINGS).fit(digits)

    photos = np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3), dtype=np.uint8)
    model = SimCLRTransformer(
        ResNetEncoder(width=0.03),
        augmentation=SimCLRAugmentation(color_strength=0.25),
        projection_layers=3,
        optimizer="lars",
        image_size=8,
        max_epochs=2,
        **SETTINGS,
    )
    yield "photos", photos, model.fit(photos)

    wine = load_wine(as_frame=True).data
    model = SimCLRTransformer(MLPEncoder(hidden_dim=8), **SETTINGS)
    yield "vectors", wine, model.partial_fit(wine).partial_fit(wine)


if __name__ == "__main__":
    for name, X, model in golden_models():
        path = Path(__file__).with_name(f"{name}-{__version__}.pkl")
        path.write_bytes(pickle.dumps(model, protocol=4))
        kept = {"X": X, "features": model.transform(X), "score": model.score(X)}
        np.savez_compressed(path.with_suffix(".npz"), **kept)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
