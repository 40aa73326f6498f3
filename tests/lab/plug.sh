# Between the bridge and a machine: makes the machine's network, then becomes the parent of its first process.
set -e
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6 || true
ip link add eth0 address "$mac" type veth peer name "$cable" netns 1
nsenter --target 1 --net ip link set "$cable" $port up
ip -batch "$disk/network"
exec unshare --mount --pid --uts --ipc --fork --kill-child sh "$init"
