"""The same as ``python -m mmrest test``; see mmrest/tools/test.py."""

from mmrest.tools.test import main

if __name__ == '__main__':
    main()
