"""What a model loses without a part: ablation, patching, lens, circuits, load-bearing heads."""
