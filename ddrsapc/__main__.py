"""`python -m ddrsapc`, and `torchrun -m ddrsapc`."""

from ddrsapc.cli import main

if __name__ == "__main__":
    main()
