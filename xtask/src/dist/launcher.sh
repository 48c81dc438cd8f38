#!/bin/sh
# Starts the program in the package @PACKAGE@, which is looked for as node looks for packages.
system=$(uname -sm)
if [ "$system" != "Linux @MACHINE@" ]; then
  echo "kugetsu: this package is for Linux on @MACHINE@, and this is $system" >&2
  echo "  build kugetsu from its source: cargo install --path ." >&2
  exit 69
fi
folder=$(readlink -f -- "$0")
while [ -n "$folder" ]; do
  folder=${folder%/*}
  program=$folder/node_modules/@PACKAGE@/bin/kugetsu
  [ -x "$program" ] && exec "$program" "$@"
done
echo "kugetsu: npm did not install @PACKAGE@, which holds the program" >&2
echo "  install it without --omit=optional: npm install -g kugetsu-cli" >&2
exit 69
