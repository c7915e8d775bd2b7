# Run by bash inside fresh user, mount and process namespaces: puts a board's file system together, says which process
# holds it, and holds it until standard input ends; with this process everything that runs on the board ends.
# Arguments: the stage (an empty folder), the board's disk in bytes, its file for /proc/cpuinfo, what binfmt_misc is
# to know, and the layers from the top down.
set -eu
stage=$1 disk_bytes=$2 cpuinfo=$3 rule=$4
shift 4
read -r holder _ < /proc/self/stat

mount -t tmpfs -o "size=$disk_bytes,mode=755" board "$stage"
cd "$stage"
mkdir disk disk/upper disk/work root
lower= number=0
for layer in "$@"; do
    mkdir "layer$number"
    mount --bind "$layer" "layer$number"
    lower=$lower${lower:+:}layer$number number=$((number + 1))
done
mount -t overlay -o "userxattr,lowerdir=$lower,upperdir=disk/upper,workdir=disk/work" board root

mount -t proc proc root/proc
mount --bind "root/$cpuinfo" root/proc/cpuinfo
for device in null zero full random urandom tty; do
    mount --bind "/dev/$device" "root/dev/$device"
done
# private to this user namespace since Linux 6.7
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf '%s' "$rule" > /proc/sys/fs/binfmt_misc/register

echo "board $holder"
exec > /dev/null 2>&1
while read -r _; do :; done
