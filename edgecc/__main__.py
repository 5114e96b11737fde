from edgecc.cli.main import main

main()
