"""What trained models are used for: outputs for any data, and text token by token."""

from funcnet.inference.generating import Generated, generate, generate_stream
from funcnet.inference.predicting import predict
from funcnet.inference.sampling import top_k, top_p

__all__ = ["Generated", "generate", "generate_stream", "predict", "top_k", "top_p"]
