"""`python -m derm_t2im`, which launchers of several processes need."""

from derm_t2im.cli import main

if __name__ == "__main__":
    main()
