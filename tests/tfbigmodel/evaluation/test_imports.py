import subprocess
import sys

MODULES = ["metrics", "baselines", "errors", "report", "tables", "text", "figures"]


def test_importing_brings_neither_tensorflow_nor_anything_slow():
    program = "import sys\n" + "".join(f"import tfbigmodel.evaluation.{module}\n" for module in MODULES)
    program += "print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tensorflow", "keras", "sklearn", "matplotlib", "pandas", "rich"} & set(loaded)
