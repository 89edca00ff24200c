#!/bin/sh
# Builds kube-apiserver, kube-controller-manager and kubectl from Debian bookworm's `kubernetes` source package.
#
#   build-kubernetes.sh SOURCES WORK OUT
#
# SOURCES  an apt source list (deb822, `Types: deb-src`) that offers the package; the machine's own lists stay as they are
# WORK     an empty folder, about 3 GB, that the caller removes afterwards
# OUT      receives the three binaries, only when all of them are built
set -eu
sources=$1 work=$2 out=$3

# An apt state of our own: lists and caches below WORK, so that nothing of the machine's apt changes.
mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/unpack" "$work/gopath/src/k8s.io"
apt() {
    apt-get -q -o "Dir::Etc::sourcelist=$sources" -o Dir::Etc::sourceparts=- \
        -o "Dir::State::lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache" \
        -o APT::Sandbox::User=root "$@"
}
echo "step: list of sources"
apt update
echo "step: source package"
cd "$work/unpack"
apt source --only-source kubernetes/bookworm
tree=$work/gopath/src/k8s.io/kubernetes
mv "$work"/unpack/kubernetes-*/ "$tree"
rm -rf "$work/unpack"

PATH=/usr/lib/go-1.19/bin:$PATH
GOPATH=$work/gopath GOCACHE=$work/gocache GOTMPDIR=$work
GO111MODULE=off GOFLAGS='' GOROOT='' CGO_ENABLED=0
export PATH GOPATH GOCACHE GOTMPDIR GO111MODULE GOFLAGS GOROOT CGO_ENABLED
unset GOROOT GOBIN
cd "$tree"

echo "step: generated code"
make gen_openapi

version=v1.20.2
ldflags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    for prefix in "" k8s.io/kubernetes/vendor/; do
        for pair in gitMajor=1 gitMinor=20 gitVersion=$version gitTreeState=clean; do
            ldflags="$ldflags -X $prefix$package.$pair"
        done
    done
done
mkdir "$work/bin"
for binary in kubectl kube-apiserver kube-controller-manager; do
    echo "step: go build $binary"
    go build -trimpath -ldflags "$ldflags" -o "$work/bin/$binary" "./cmd/$binary"
done
mkdir -p "$out"
for binary in kubectl kube-apiserver kube-controller-manager; do
    mv "$work/bin/$binary" "$out/$binary"
done
chmod 0755 "$out" "$out"/*
# Last: whoever sees it knows that the folder is whole.
touch "$out/complete"
echo "step: done"
