"""Shell scripts that run in a sandbox: they put an upload in its place, and pack a tree for download.

They need ``sh``, ``tar`` and the programs of POSIX. Root in a sandbox may have no capabilities; it then has to make its
own read-only directories writable before it can write in them.
"""

PATH_KIND = (
    'if [ -d "$1" ]; then echo directory; elif [ -f "$1" ]; then echo file; elif [ -e "$1" ]; then echo other; fi'
)
"""Prints ``file``, ``directory`` or ``other``, links followed, and nothing for a missing path. Arguments: the path."""

# The parent of the first missing directory may be read-only.
_MAKE_DIRECTORY = """\
make() {
  mkdir -p -- "$1" 2>/dev/null && return
  p=$1
  while [ ! -e "$p" ] && [ ! -L "$p" ]; do
    p=${p%/*}
    if [ ! "$p" ]; then p=/; fi
  done
  if [ ! -d "$p" ] || [ -w "$p" ] || ! chmod u+w -- "$p" 2>/dev/null; then
    mkdir -p -- "$1"
    return
  fi
  mkdir -p -- "$1"
  set -- "$?"
  chmod u-w -- "$p"
  return "$1"
}
"""

# A running program, or a read-only file, is replaced by a new file that is written beside it.
PLACE_FILE = (
    _MAKE_DIRECTORY
    + """\
make "$2" || exit
if [ -d "$3" ]; then echo "$3 is a directory" >&2; exit 1; fi
t=$3
if [ -L "$t" ]; then t=$(readlink -f -- "$t" && echo .) && t=${t%??} || exit; fi
if ! { cat <"$1" >"$t"; } 2>/dev/null; then
  d=${t%/*}/ opened=
  if ! { cat </dev/null >"$d$5"; } 2>/dev/null; then
    chmod u+w -- "$d" || exit
    opened=1
  fi
  cat <"$1" >"$d$5" && chmod "$4" -- "$d$5" && mv -f -- "$d$5" "$t"
  status=$?
  rm -f -- "$d$5"
  if [ "$opened" ]; then chmod u-w -- "$d"; fi
  [ "$status" = 0 ] || exit "$status"
fi
chmod "$4" -- "$t" && rm -f -- "$1"
"""
)
"""Arguments: the uploaded file, the target's directory, the target, its mode in octal, and an unused file name."""

# Merges into an existing directory as `docker cp` does, and follows links to directories, which tar would replace.
UNPACK_TREE = (
    _MAKE_DIRECTORY
    + """\
LC_ALL=C
export LC_ALL
unset TAR_OPTIONS
unpack() {
  tar -x -o -p -f "$1" -C "$2" || return
  if [ -f "$2/$3.sh" ]; then
    (cd -- "$2" && sh "./$3.sh" && rm -f -- "./$3.sh")
  fi
}

is_empty() {
  if [ ! -r "$1" ]; then return 1; fi
  for e in "$1"/* "$1"/.[!.]* "$1"/..?*; do
    if [ -e "$e" ] || [ -L "$e" ]; then return 1; fi
  done
}

# The arguments serve as local variables, because a subshell for each directory takes longer than its copy.
check() {
  for t in "$2"/*/ "$2"/.[!.]*/ "$2"/..?*/; do
    t=${t%/}
    e=$1/${t##*/}
    if [ ! -d "$t" ]; then continue; fi
    if [ -L "$e" ]; then
      if [ -L "$t" ]; then continue; fi
    elif [ ! -f "$e" ]; then
      continue
    fi
    echo "$t is a directory, and something else would replace it" >&2
    return 1
  done
  for e in "$1"/*/ "$1"/.[!.]*/ "$1"/..?*/; do
    e=${e%/}
    t=$2/${e##*/}
    if [ ! -d "$e" ] || [ -L "$e" ]; then
      continue
    elif [ -d "$t" ]; then
      check "$e" "$t" || return 1
    elif [ -e "$t" ] || [ -L "$t" ]; then
      echo "$t is not a directory, and a directory would replace it" >&2
      return 1
    fi
  done
}

# Moves the matches of a pattern into a directory, as many at once as a command may have arguments.
move() {
  to=$1
  shift
  if [ ! -e "$1" ] && [ ! -L "$1" ]; then
    return
  elif [ "$#" -le 1000 ] && [ "${#1}" -le 500 ]; then
    mv -f -- "$@" "$to/" || failed=1
    return
  fi
  n=0
  for e in "$@"; do
    if [ "$n" = 0 ]; then set -- "$e"; else set -- "$@" "$e"; fi
    n=$((n + 1))
    if [ "$n" = 150 ]; then
      mv -f -- "$@" "$to/" || failed=1
      n=0
    fi
  done
  if [ "$n" != 0 ]; then mv -f -- "$@" "$to/" || failed=1; fi
}

merge() {
  if [ ! -w "$1" ]; then chmod u+w -- "$1"; fi
  if [ -w "$2/" ]; then set -- "$1" "$2" ""; else chmod u+w -- "$2/" && set -- "$1" "$2" closed; fi
  for e in "$1"/*/ "$1"/.[!.]*/ "$1"/..?*/; do
    e=${e%/}
    t=$2/${e##*/}
    if [ ! -d "$e" ] || [ -L "$e" ]; then
      continue
    elif [ -d "$t" ]; then
      set -- "$1" "$2" "$3" "$e"
      merge "$e" "$t"
      rm -rf -- "$4"
    elif [ ! -w "$e" ]; then
      { chmod u+w -- "$e" && mv -f -- "$e" "$2/" && chmod u-w -- "$t"; } || failed=1
    fi
  done
  move "$2" "$1"/*
  move "$2" "$1"/.[!.]*
  move "$2" "$1"/..?*
  if [ "$3" ]; then chmod u-w -- "$2/"; fi
}

if [ ! -d "$2" ]; then
  make "$2" && unpack "$1" "$2" "$4" && chmod "$3" -- "$2" && rm -f -- "$1"
  exit
fi
to=${2%/} opened=
if [ ! -w "$2" ]; then chmod u+w -- "$2" && opened=1; fi
if is_empty "$2"; then
  unpack "$1" "$2" "$4"
  status=$?
else
  new=$to/$4
  mkdir -m 700 -- "$new" 2>/dev/null || { new=/tmp/$4; mkdir -m 700 -- "$new"; } || exit
  unpack "$1" "$new" "$4" && check "$new" "$to"
  status=$?
  if [ "$status" = 0 ]; then
    failed=0
    merge "$new" "$to"
    status=$failed
  fi
  rm -rf -- "$new" 2>/dev/null || { chmod -R u+rwx -- "$new"; rm -rf -- "$new"; }
fi
if [ "$opened" ]; then chmod u-w -- "$2"; fi
[ "$status" != 0 ] || rm -f -- "$1"
exit "$status"
"""
)
"""Arguments: the uploaded archive, the target directory, its mode if it is new, and an unused file name.

If the archive has a script of that name with ``.sh``, it runs last and makes directories read-only.
"""

# Sparse or endless files would fill the sandbox's disk, which on Docker is the server's. GNU tar exits with 1 if a file
# changed while it was read; other programs do so for every error.
PACK_TREE = """\
ulimit -f "$1" || exit
unset TAR_OPTIONS
LC_ALL=C tar -c -f "$2" -C "$3" . && exit
status=$?
case $status$(tar --version 2>/dev/null) in 1*"GNU tar"*) exit 0 ;; esac
exit "$status"
"""
"""Arguments: size limit of the archive in blocks of 512 bytes, the archive, and the directory."""
