"""Train the golden models of this version and write them beside this file.

Each is a pickle of a fitted SimCLRTransformer or SimCLRClassifier, NAME.pkl, and what it was given
and what it gave, NAME.npz with X, features (probabilities of a classifier) and score. Run it for a
release whose fitted state differs from the last one's, and commit the new files next to the old:
every later version has to load them all.
"""

import pickle
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits, load_wine

from sklearn_simclr import SimCLRClassifier, SimCLRTransformer, __version__
from sklearn_simclr.augmentation import (
    Compose,
    Cutout,
    GaussianNoise,
    QuarterTurns,
    SimCLRAugmentation,
)
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

    steps = [("turn", QuarterTurns()), ("noise", GaussianNoise(std=0.05)), ("cut", Cutout(p=1.0))]
    model = SimCLRTransformer(
        encoder, augmentation=Compose(steps), loss="dcl", projection_layers=3, output_layer=1
    )
    yield "composed", digits, model.set_params(max_epochs=2, **SETTINGS).fit(digits)

    few = np.where(np.arange(64) < 40, load_digits().target[:64], -1)
    simclr = SimCLRTransformer(encoder, max_epochs=5, **SETTINGS)
    yield (
        "classifier",
        digits,
        SimCLRClassifier(simclr, max_iter=20, random_state=0).fit(digits, few),
    )


if __name__ == "__main__":
    for name, X, model in golden_models():
        path = Path(__file__).with_name(f"{name}-{__version__}.pkl")
        path.write_bytes(pickle.dumps(model, protocol=4))
        if isinstance(model, SimCLRClassifier):
            kept = {"features": model.predict_proba(X), "score": model.score(X, model.predict(X))}
        else:
            kept = {"features": model.transform(X), "score": model.score(X)}
        kept["X"] = X
        np.savez_compressed(path.with_suffix(".npz"), **kept)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
