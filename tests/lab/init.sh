# The first process of a machine: mounts what is the machine's own over this one's files, starts the daemons,
# and collects orphans. What it says comes into the file `console` beside the disk.
set -e
umask 022
ours=$disk/seen
mount --rbind / "$ours"
mount -o remount,bind,ro "$ours"
mount -t proc proc "$ours/proc"
mount --bind "$disk/boot_id" "$ours/proc/sys/kernel/random/boot_id"
mount -t tmpfs -o mode=1777 tmpfs "$ours/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$ours/dev/pts"
mount -t tmpfs -o mode=755 tmpfs "$ours/run"
mkdir -m 755 "$ours/run/etc" "$ours/run/sshd"
mkdir -m 1777 "$ours/run/lock"
mount --bind /etc "$ours/run/etc"
for folder in etc root tmp usr/local/bin var/log var/spool var/tmp; do
    mount --bind "$disk/$folder" "$ours/$folder"
done
mount --bind "$home" "$ours/home"
if [ -n "$small_home" ]; then
    mount -t tmpfs -o "mode=755,size=$small_home" tmpfs "$ours/home"
    cp -a "$home/." "$ours/home"
fi
while IFS="$(printf '\t')" read -r path there; do
    if [ -d "$path" ]; then
        mkdir -p "$ours$there"
    else
        mkdir -p "$(dirname "$ours$there")"
        [ -e "$ours$there" ] || : >"$ours$there"
    fi
    mount --bind "$path" "$ours$there"
    mount -o remount,bind,ro "$ours$there"
done <"$disk/shared"
while read -r path; do
    [ ! -e "$ours$path" ] || mount --bind /dev/null "$ours$path"
done <"$disk/hidden"
echo "$name" >/proc/sys/kernel/hostname
cd "$ours"
pivot_root . .
umount -l .
cd /
exec 3>&1 </dev/null >>/var/log/console 2>&1
if [ -n "$logins" ]; then
    $logins "$sshd" -E /var/log/sshd.log 3>&- &
elif [ -n "$sshd" ]; then
    "$sshd" -D -E /var/log/sshd.log 3>&- &
fi
[ -z "$cron" ] || "$cron" -f 3>&- &
echo up >&3
exec 3>&-
sleep infinity &
while :; do wait; sleep 0.2; done
