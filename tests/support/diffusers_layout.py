"""A tiny DiT, and its weights by the names of diffusers."""

from dit_eval.models.config import DiTConfig

CONFIG = DiTConfig(depth=2, hidden_size=32, num_heads=2, patch_size=2, input_size=8, num_classes=10)


def to_diffusers(state):
    """diffusers' names, written from its side: every block repeats the embedders, attention is in three parts."""
    theirs = {
        "pos_embed.proj": "x_embedder.proj",
        "proj_out_1": "final_layer.adaLN_modulation.1",
        "proj_out_2": "final_layer.linear",
    }
    for i in range(CONFIG.depth):
        block = f"transformer_blocks.{i}"
        theirs |= {
            f"{block}.norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
            f"{block}.norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
            f"{block}.norm1.linear": f"blocks.{i}.adaLN_modulation.1",
            f"{block}.attn1.to_out.0": f"blocks.{i}.attn.proj",
            f"{block}.ff.net.0.proj": f"blocks.{i}.mlp.fc1",
            f"{block}.ff.net.2": f"blocks.{i}.mlp.fc2",
        }
    out = {
        f"{name}.{kind}": state[f"{ours}.{kind}"].clone()
        for name, ours in theirs.items()
        for kind in ("weight", "bias")
    }
    for i in range(CONFIG.depth):
        table = f"transformer_blocks.{i}.norm1.emb.class_embedder.embedding_table.weight"
        out[table] = state["y_embedder.embedding_table.weight"].clone()
        for kind in ("weight", "bias"):
            for letter, third in zip("qkv", state[f"blocks.{i}.attn.qkv.{kind}"].chunk(3), strict=True):
                out[f"transformer_blocks.{i}.attn1.to_{letter}.{kind}"] = third.clone()
    return out
