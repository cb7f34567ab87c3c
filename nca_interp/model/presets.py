"""Named model shapes, from tiny to the paper's 1.6B (arXiv 2603.10055; facts on its released code, models.py)."""

from nca_interp.config import ModelConfig

PRESETS: dict[str, ModelConfig] = {
    # 3 layers: the fewest in which an induction circuit (two layers) has room to be late or early
    "tiny": ModelConfig(n_layers=3, d_model=64, n_heads=4, d_mlp=192, n_ctx=128),
    "mini": ModelConfig(n_layers=4, d_model=128, n_heads=4, d_mlp=384, n_ctx=256),
    "small": ModelConfig(n_layers=6, d_model=256, n_heads=8, d_mlp=704, n_ctx=256),
    "50m": ModelConfig(n_layers=12, d_model=512, n_heads=8, d_mlp=2048, n_ctx=1024),
    "160m": ModelConfig(n_layers=12, d_model=768, n_heads=12, d_mlp=3072, n_ctx=1024),
    # arXiv 2603.10055 states widths for 1.6B only; 400M and 600M are its 16 d^2-a-layer shape at those sizes
    "400m": ModelConfig(n_layers=24, d_model=1024, n_heads=16, d_mlp=4096, n_ctx=1024),
    "600m": ModelConfig(n_layers=24, d_model=1280, n_heads=20, d_mlp=5120, n_ctx=1024),
    "1.6b": ModelConfig(n_layers=24, d_model=2048, n_heads=32, d_mlp=8192, n_ctx=1024),
}
