"""The same as ``python -m mmrest convert``; see mmrest/tools/convert.py."""

from mmrest.tools.convert import main

if __name__ == '__main__':
    main()
