"""The same as ``python -m mmrest benchmark``; see mmrest/tools/benchmark.py."""

from mmrest.tools.benchmark import main

if __name__ == '__main__':
    main()
