from edgecc.cli import main

main()
