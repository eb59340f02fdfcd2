"""Pretrains a tiny vision transformer from nothing, for trying out methods on images where no hub can be reached.

    python scripts/pretrain_vit.py FOLDER [--images IMAGES] [--epochs 40]

Without --images it learns the digits 0 to 4 that scikit-learn ships (pip install scikit-learn) and writes the digits
5 to 9 beside them, to be adapted to. IMAGES is a folder with a folder of images for each class, or an archive of one.
FOLDER/base is a checkpoint as transformers writes it. What is there already is left as it is. Afterwards:

    peft train recipes/image_classification.yaml base.name=FOLDER/base data.train=FOLDER/new data.validation=FOLDER/new

A few minutes of one core are no pretraining to rely on: the numbers that it leads to compare methods, nothing else.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

SIZE = 16  # pixels a side
PATCH = 4
NETWORK = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
KNOWN = 5  # of the ten digits, those that are learned here
PROCESSOR = "preprocessor_config.json"
VALIDATED = 8  # every eighth image is validated on


def main() -> int:
    """Pretrain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=Path, help="what is learned, in place of digits")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    base = options.folder / "base"
    if (base / "config.json").exists():
        print(f"{base} is there already")
        return 0
    images = options.images or write_digits(options.folder)
    with tempfile.TemporaryDirectory() as name:
        start = new_network(Path(name) / "start", options.seed)
        pretrain(start, images, base, options)
    return 0


def write_digits(folder: Path) -> Path:
    """Write scikit-learn's digits as PNG files and return the folder of those that are learned."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    seen: Counter[int] = Counter()
    for pixels, label in zip(digits.images, digits.target.tolist(), strict=True):
        seen[label] += 1
        split = "train" if seen[label] % VALIDATED else "validation"
        place = folder / ("known" if label < KNOWN else "new") / split / str(label)
        place.mkdir(parents=True, exist_ok=True)
        grey = np.round(pixels * (255 / 16)).astype(np.uint8)  # they count from 0 to 16
        Image.fromarray(grey).save(place / f"{seen[label]:03}.png")
    return folder / "known"


def new_network(folder: Path, seed: int) -> Path:
    """Write a vision transformer that has learned nothing, and its image processor."""
    import torch
    from transformers import ViTConfig, ViTModel
    from transformers.utils import logging

    logging.set_verbosity_error()  # what it would tell of the head is meant
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    config = ViTConfig(image_size=SIZE, patch_size=PATCH, **NETWORK)
    ViTModel(config).save_pretrained(folder)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": SIZE, "width": SIZE},
        "resample": 2,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / PROCESSOR).write_text(json.dumps(processor, indent=2))
    return folder


def pretrain(start: Path, images: Path, base: Path, options: argparse.Namespace) -> None:
    """Train every number of the network, and write the checkpoint."""
    from transformers import ViTModel

    from peftcli.pipeline.merging import MergeOptions, merge
    from peftcli.pipeline.progress import Silent
    from peftcli.pipeline.reading import read
    from peftcli.pipeline.training import TrainOptions, train

    recipe = start / "pretrain.yaml"
    recipe.write_text(f"""version: 1
name: pretraining
base: {{name: {json.dumps(str(start))}}}
method: {{name: full}}
data: {{task: image-classification, train: {json.dumps(str(images.absolute()))}, validation: 12%}}
training: {{epochs: {options.epochs}, learning_rate: 1e-3, batch_size: 32}}
evaluation: {{every: end, base: false}}
seed: {options.seed}
""")
    run = start.parent / "run"
    report = train(read(recipe), TrainOptions(out=run), Silent()).report
    print(f"accuracy on what it has not seen: {report['metrics']['validation']['accuracy']:.3f}")
    merge(run, start.parent / "merged", MergeOptions(), Silent())
    # Without its head: as many labels of another kind would otherwise begin with it.
    ViTModel.from_pretrained(start.parent / "merged", add_pooling_layer=False).save_pretrained(base)
    shutil.copy(start / PROCESSOR, base)
    print(f"wrote {base} in {report['cost']['seconds']:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
