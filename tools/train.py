"""The same as ``python -m mmrest train``; see mmrest/tools/train.py."""

from mmrest.tools.train import main

if __name__ == '__main__':
    main()
