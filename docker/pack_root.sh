#!/bin/sh
# Copies a Python environment, its interpreter and the system libraries that they load into an empty folder, which
# becomes the whole file system of an image: no shell, no package manager, no pip, and half the size.
#
#   docker/pack_root.sh ENVIRONMENT FOLDER      ENVIRONMENT: a virtual environment; it has the same path in FOLDER
set -eu

if [ $# -ne 2 ] || [ ! -x "$1/bin/python" ]; then
    echo "usage: $0 ENVIRONMENT FOLDER, where ENVIRONMENT is a virtual environment" >&2
    exit 2
fi
if [ -e "$2" ] && [ -n "$(ls -A "$2")" ]; then
    echo "error: '$2' is not empty. Name a new folder." >&2
    exit 2
fi
environment=$1
mkdir -p "$2/tmp" "$2/etc/ssl/certs" "$2/models"
root=$(cd "$2" && pwd)
chmod 1777 "$root/tmp"
prefix=$("$environment/bin/python" -c 'import sys; print(sys.base_prefix)')
version=$("$environment/bin/python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
library=$prefix/lib/$version

# Bytecode is made again at the start, tests and installers are not needed. `libonnxruntime.so` is for programs in C++:
# the Python module holds a copy of its own.
tar -c --exclude=__pycache__ --exclude="*/site-packages/pip*" --exclude="*/site-packages/setuptools*" \
    --exclude="*/site-packages/numpy/*/tests" --exclude="*/site-packages/onnxruntime/capi/libonnxruntime.so*" \
    --exclude="*/site-packages/onnxruntime/transformers" --exclude="*/bin/pip*" "$environment" | tar -x -C "$root"
tar -c --exclude=__pycache__ --exclude="$library/site-packages/*" --exclude="$library/config-*" \
    --exclude="$library/test" --exclude="$library/idlelib" --exclude="$library/ensurepip" \
    --exclude="$library/tkinter" --exclude="$library/turtledemo" --exclude="$library/lib2to3" \
    --exclude="$library/pydoc_data" --exclude="*/lib-dynload/_tkinter*" --exclude="*/lib-dynload/_test*" "$library" "$prefix"/bin/python3* | tar -x -C "$root"

# The system's libraries that these load, the loader among them, by the names under which it looks for them.
find "$root$environment" "$root$prefix" -type f \( -name '*.so' -o -name '*.so.*' -o -path '*/bin/python3.*' \) \
    -exec ldd {} + 2>/dev/null |
    awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\/.*ld-linux/ { print $1 }' | sort -u |
    while read -r file; do
        case $file in "$root"* | "$environment"*) continue ;; esac
        mkdir -p "$root$(dirname "$file")"
        cp -L "$file" "$root$file"
    done
echo "$prefix/lib" >"$root/etc/ld.so.conf"
/sbin/ldconfig -r "$root"

# Names of hosts and certificates, for --allow-url; a name for the user.
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" 2>/dev/null ||
    echo "warning: no ca-certificates.crt here: https addresses of --allow-url will be refused." >&2
echo "hosts: files dns" >"$root/etc/nsswitch.conf"
echo "onelook:x:10001:10001::/tmp:/nologin" >"$root/etc/passwd"
echo "onelook:x:10001:" >"$root/etc/group"

du -sk "$root" | awk '{ printf "The root is %.0f MB.\n", $1 * 1024 / 1e6 }'
