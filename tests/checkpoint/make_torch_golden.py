"""Makes `torch_golden.safetensors`: small networks of PyTorch's, their weights and what they give.

    python -m tests.checkpoint.make_torch_golden

It wants PyTorch; the tests that read the file do not. Weights and inputs are float32, outputs were
computed in float64. Norms have statistics, scales and biases as after a training, not 0 and 1.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("torch_golden.safetensors")


def resnet(torch, widths=(64, 128, 256, 512), blocks=2, classes=1000):
    """The residual network of He et al. 2015, figure 3, with the names of torchvision's."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, before, features, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(before, features, 3, stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(features)
            self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(features)
            self.downsample = None
            if stride != 1 or before != features:
                short = nn.Conv2d(before, features, 1, stride, bias=False)
                self.downsample = nn.Sequential(short, nn.BatchNorm2d(features))

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, widths[0], 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(widths[0])
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
            before = widths[0]
            for i, features in enumerate(widths):
                first = Block(before, features, 1 if i == 0 else 2)
                rest = [Block(features, features, 1) for _ in range(blocks - 1)]
                setattr(self, f"layer{i + 1}", nn.Sequential(first, *rest))
                before = features
            self.fc = nn.Linear(before, classes)

        def forward(self, x):
            x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
            for i in range(len(widths)):
                x = getattr(self, f"layer{i + 1}")(x)
            return self.fc(x.mean((2, 3)))

    return as_trained(torch, ResNet())


def as_trained(torch, module):
    """A module in evaluation whose norms are not those of a module that is new."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if "bn" in name or "norm" in name or "downsample.1" in name:
                if name.endswith("running_mean") or name.endswith("bias"):
                    value.normal_(0, 0.3)
                elif value.is_floating_point():
                    value.uniform_(0.5, 1.5)
    return module.eval()


def encoder(torch):
    layer = torch.nn.TransformerEncoderLayer(
        8, 2, 12, batch_first=True, norm_first=True, layer_norm_eps=1e-6
    )
    return as_trained(torch, torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


def digits(torch):
    """Convolutions of all kinds, then a dense layer on what is flattened with channels first."""
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1, groups=2),
        nn.ConvTranspose2d(6, 4, (3, 2), stride=(2, 1), padding=(1, 0)),
        nn.PReLU(4),
        nn.GroupNorm(2, 4, eps=1e-6),
        nn.Flatten(),
        nn.Linear(4 * 5 * 4, 3),
    )


def volume(torch):
    nn = torch.nn
    return nn.Sequential(nn.Conv3d(2, 3, (2, 3, 2)), nn.ConvTranspose3d(3, 2, (2, 1, 3)))


def series(torch):
    nn = torch.nn
    return nn.Sequential(nn.Conv1d(4, 6, 3, dilation=2), nn.ConvTranspose1d(6, 2, 4, stride=3))


class First:
    """What a module gives first of a tuple."""

    def __init__(self, module):
        self.module, self.state_dict = module, module.state_dict

    def __call__(self, *x):
        return self.module(*x)[0]

    def double(self):
        self.module.double()
        return self


def cases(torch):
    """Each network with its inputs."""
    nn = torch.nn
    image, sequence = torch.randn(2, 3, 24, 20), torch.randn(2, 5, 4)
    text, memory = torch.tensor([[0, 3, 8], [5, 1, 1]]), torch.randn(2, 7, 6)
    return {
        "resnet": (resnet(torch, (3, 4, 5), 1, 4), [image]),
        "encoder": (encoder(torch), [torch.randn(2, 5, 8)]),
        "digits": (digits(torch), [torch.randn(2, 2, 6, 5)]),
        "volume": (volume(torch), [torch.randn(2, 2, 4, 5, 3)]),
        "series": (series(torch), [torch.randn(2, 4, 9)]),
        "embedding": (nn.Sequential(nn.Embedding(9, 4), nn.RMSNorm(4, eps=1e-6)), [text]),
        "lstm": (First(nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True)), [sequence]),
        "gru": (First(nn.GRU(4, 3, batch_first=True)), [sequence]),
        "rnn": (First(nn.RNN(4, 3, batch_first=True)), [sequence]),
        "cross": (
            First(nn.MultiheadAttention(4, 2, kdim=6, vdim=6, batch_first=True)),
            [sequence, memory, memory],
        ),
    }


def main():
    import safetensors.numpy
    import torch

    torch.manual_seed(8)
    found = {}
    for name, (module, inputs) in cases(torch).items():
        for path, value in module.state_dict().items():
            found[f"{name}|weights|{path}"] = value.numpy().copy()
        for i, x in enumerate(inputs):
            found[f"{name}|inputs|{i}"] = x.numpy()
        wide = [x.double() if x.is_floating_point() else x for x in inputs]
        found[f"{name}|output"] = module.double()(*wide).detach().numpy()
    whole = {name: np.array(value, order="C") for name, value in found.items()}
    safetensors.numpy.save_file(whole, FILE)
    print(f"{FILE}: {FILE.stat().st_size} bytes, {len(found)} arrays, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
