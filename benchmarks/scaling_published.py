"""What others have measured on many GPUs, as far as the pages could be opened; throughputs are theirs, ratios ours.

Not opened, and so not used: the Horovod paper's own tables (arXiv 1802.05799; its README's were), AWS' 2018 article on
ResNet50 on p3.16xlarge over 25 Gbit/s (only its beginning), and MLPerf's result tables. No measurement of BERT over
25 Gbit/s Ethernet was found.
"""

from dataclasses import dataclass

NVIDIA_RESNET = "NVIDIA/DeepLearningExamples, TensorFlow/Classification/ConvNets/resnet50v1.5/README.md"
NVIDIA_BERT = "NVIDIA/DeepLearningExamples, TensorFlow2/LanguageModeling/BERT/README.md"
TENSORFLOW = "tensorflow/docs, site/en/r1/guide/performance/benchmarks.md (May 2017)"
HOROVOD = "uber/horovod, README.md of 2017: 4 servers with 4 Pascal GPUs each, 25 Gbit/s"


@dataclass(frozen=True)
class Published:
    """A measured pair.

    Attributes:
        model: what was trained.
        hardware: GPUs, and the network where there is one.
        gpus: how many.
        one: examples per second on one of them.
        many: examples per second on all.
        batch: examples per GPU and step.
        accumulation: steps per update.
        source: where it stands.
    """

    model: str
    hardware: str
    gpus: int
    one: float
    many: float
    batch: int
    source: str
    accumulation: int = 1

    @property
    def speed_up(self) -> float:
        """Times as fast as one GPU."""
        return self.many / self.one


ONE_MACHINE = (
    Published("ResNet50", "A100, TF32", 8, 909, 7000, 256, NVIDIA_RESNET),
    Published("ResNet50", "A100, mixed", 8, 2375, 17400, 256, NVIDIA_RESNET),
    Published("ResNet50", "V100, float32", 8, 412, 3170, 128, NVIDIA_RESNET),
    Published("ResNet50", "V100, mixed", 8, 1270, 9510, 256, NVIDIA_RESNET),
    Published("ResNet50", "P100, synthetic", 8, 219, 1734, 64, TENSORFLOW),
    Published("ResNet50", "P100, real data", 8, 218, 1630, 64, TENSORFLOW),
    Published("BERT large, length 128", "A100, mixed", 8, 485.59, 3799.24, 312, NVIDIA_BERT, 32),
    Published("BERT large, length 512", "A100, mixed", 8, 96.52, 649.69, 40, NVIDIA_BERT, 96),
    Published("BERT large, length 128", "V100, mixed", 8, 206.5, 1561.77, 60, NVIDIA_BERT, 128),
    Published("BERT large, length 512", "V100, mixed", 8, 40.95, 312.03, 10, NVIDIA_BERT, 384),
    Published("BERT large, SQuAD", "A100, mixed", 8, 134.22, 1048.23, 76, NVIDIA_BERT),
    Published("BERT large, SQuAD", "V100 32 GB, mixed", 8, 47.06, 330.29, 12, NVIDIA_BERT),
)

# Between machines: four of four GPUs. The two lines of a model differ in the transport of one and the same network.
MACHINES = (
    Published("Inception V3", "4 × 4 P100, RDMA", 16, 134.4, 2022.6, 64, HOROVOD),
    Published("ResNet101", "4 × 4 P100, RDMA", 16, 119.4, 1746.2, 64, HOROVOD),
    Published("VGG16", "4 × 4 P100, RDMA", 16, 130.9, 1787.4, 64, HOROVOD),
    Published("Inception V3", "4 × 4 P100, TCP", 16, 134.4, 1990.7, 64, HOROVOD),
    Published("ResNet101", "4 × 4 P100, TCP", 16, 119.4, 1685.1, 64, HOROVOD),
    Published("VGG16", "4 × 4 P100, TCP", 16, 130.9, 1308.7, 64, HOROVOD),
)
