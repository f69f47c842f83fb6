"""Images per second of two ways to make augmented training batches, and their memory.

(a) what most projects do: a Dataset that opens each file with Pillow and transforms it with torchvision, behind a
DataLoader with 0 and 2 workers; (b) this project's packed arrays and whole-batch augmentation. Both make the same
batches: 128 images of 48 px, shuffled, turned, scaled, shifted, sheared, brightened, blurred and partly covered.

    uv run --group benchmarks python benchmarks/loader.py data.raw_dir=../shared/gtsrb

Writes benchmarks/results/loader.csv.
"""
