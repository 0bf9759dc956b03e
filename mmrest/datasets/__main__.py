"""``python -m mmrest.datasets ROOT`` makes the built-in data set."""

import argparse

from mmrest.datasets.shapes import ShapesSpec, write_shapes
from mmrest.errors import clear_errors

parser = argparse.ArgumentParser(description='Make the built-in data set "shapes".')
parser.add_argument('root', help='folder to make it in')
default = ShapesSpec()
for name in ('num_train', 'num_val', 'min_side', 'max_side', 'seed'):
    option = f'--{name.replace("_", "-")}'
    parser.add_argument(option, type=int, default=getattr(default, name))
args = vars(parser.parse_args())
with clear_errors():
    print(write_shapes(args.pop('root'), **args))
